"""A copy of a finished experiment for every test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from halo_ray.config import Config
from halo_ray.lock import locked
from halo_ray.storage import Storage
from halo_ray.verification.findings import Findings
from halo_ray.verification.verify import verify_experiment


@pytest.fixture(autouse=True)
def quick(built_once: None) -> None:
    """All of these tests verify."""


@pytest.fixture
def copy(experiment: Config, tmp_path: Path) -> Storage:
    """A finished experiment of two rounds that may be damaged."""
    shutil.copytree(experiment.output_dir, tmp_path / "copy", ignore=shutil.ignore_patterns("lock"))
    storage = Storage(str(tmp_path / "copy"))
    with locked(storage, seconds=60):  # whose number does not depend on how often others opened the experiment
        pass
    return storage


Expect = Callable[[str, str], Findings]


@pytest.fixture
def expect(copy: Storage) -> Expect:
    """Verifies the copy: something about that file must be wrong, in words that hold ``what``."""

    def verify(place: str, what: str) -> Findings:
        findings = verify_experiment(copy.uri)
        assert any(place == each.place and what in each.what for each in findings.wrong), [*map(str, findings.wrong)]
        return findings

    return verify
