"""What tests of studies share."""

from __future__ import annotations

from pathlib import Path

import pytest
from studies import TREE, written

from halo_ray.config import Config
from halo_ray.sweep.study import Study, read_study


@pytest.fixture
def base(tmp_path: Path) -> Config:
    return Config(output_dir=str(tmp_path / "study"))


@pytest.fixture
def study(tmp_path: Path, base: Config) -> Study:
    return read_study(written(tmp_path, TREE), base)
