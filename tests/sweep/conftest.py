"""What tests of sweeps and studies share."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from studies import BUDGETS, CURVATURES, FUNCTIONS, TREE, written

from halo_ray.config import Config
from halo_ray.sweep.space import SearchSpace
from halo_ray.sweep.study import Study, read_study
from halo_ray.verification import sweeps


@pytest.fixture
def base(tmp_path: Path) -> Config:
    return Config(output_dir=str(tmp_path / "study"))


@pytest.fixture
def space(base: Config) -> SearchSpace:
    return SearchSpace.of(base, CURVATURES, BUDGETS, FUNCTIONS, 2)


@pytest.fixture
def study(tmp_path: Path, base: Config) -> Study:
    return read_study(written(tmp_path, TREE), base)


@pytest.fixture
def trials_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that leave trials as they are and verify what lies around them again and again."""
    monkeypatch.setattr(sweeps, "verify_experiment", cache(sweeps.verify_experiment))
