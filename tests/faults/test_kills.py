"""SIGKILL at a random moment of a stage for whoever lives in it: the run ends, or is resumed, with the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from kills import CELLS, Cell, Nodes, Undisturbed, run_cell
from ray_head import listed

pytestmark = pytest.mark.faults
"""More than an hour. In `make test` a driver is killed by e2e/test_job.py, a worker by training/test_stage.py."""


def cells() -> list[object]:
    every = [Cell(victim, stage, seed) for seed in (0, 1) for victim, stages in CELLS.items() for stage in stages]
    return [pytest.param(cell, id=str(cell)) for cell in every]


@pytest.mark.parametrize("cell", cells())
def test_a_kill_changes_nothing(cell: Cell, nodes: Nodes, undisturbed: Undisturbed, tmp_path: Path) -> None:
    run_cell(cell, nodes, undisturbed, tmp_path)


def test_no_placement_group_is_left(nodes: Nodes) -> None:
    """Of all the runs before."""
    assert [group for group in listed(nodes.head, "placement-groups") if group["state"] != "REMOVED"] == []
