"""A copy of a finished experiment for every test, and what does not depend on it computed once."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from halo_ray import stored_config
from halo_ray.checkpoint import load_model
from halo_ray.config import Config, config_from_yaml
from halo_ray.lock import locked
from halo_ray.models.segmenter import Segmenter
from halo_ray.storage import Storage
from halo_ray.verification import checkpoints
from halo_ray.verification.findings import Findings
from halo_ray.verification.verify import verify_experiment


@pytest.fixture(scope="session", autouse=True)
def quick() -> Iterator[None]:
    """The same networks and configurations are read again and again by these tests."""
    built: dict[str, Segmenter] = {}

    def load_once(storage: Storage, name: str) -> Segmenter:
        files = [storage.read(f"{name}/{file}") for file in ("model.json", "model.safetensors")]
        key = hashlib.sha256(b"".join(files)).hexdigest()
        if key not in built:
            built[key] = load_model(storage, name)
        return built[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "load_model", load_once)
        patch.setattr(stored_config, "config_from_yaml", cache(config_from_yaml))
        yield


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
