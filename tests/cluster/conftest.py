"""One head for all tests that need a cluster with token authentication; it ends when they are done."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_head import ROOT, Head, ray_head


@pytest.fixture(scope="package")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What jobs without a working directory run: a copy of the code, as an image holds it."""
    copy = tmp_path_factory.mktemp("image") / "halo_ray"
    for part in ("halo_ray", "jobs"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="package")
def head(repository: Path) -> Iterator[Head]:
    with ray_head("--num-cpus=2", cwd=repository) as running:
        yield running
