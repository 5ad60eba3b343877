"""Experiments that share, and one that does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_experiments import (
    Shared,
    computed,
    entries,
    leading,
    small,
)

from halo_ray.context import Context, open_experiment
from halo_ray.experiment import prepare_experiment, run_experiment


@pytest.fixture(scope="session")
def shared(cluster: None, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    root = tmp_path_factory.mktemp("shared")
    leader, follower = (small(dataset, root / name, shared_stages=str(root / "store")) for name in ("leader", "own"))
    leader, alone = leading(leader), small(dataset, root / "alone")
    with computed() as prepared:
        prepare_experiment(leader)
    with computed() as ran:
        run_experiment(follower)
    found = entries(root / "store")
    run_experiment(alone)
    return Shared(root / "store", leader, follower, alone, prepared, ran, found)


@pytest.fixture(scope="session")
def context(cluster: None, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    """An opened experiment that has done nothing yet."""
    with open_experiment(small(dataset, tmp_path_factory.mktemp("opened") / "experiment")) as context:
        yield context
