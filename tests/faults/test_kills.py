"""SIGKILL at a random moment of a stage for whoever lives in it: the run ends, or is resumed, with the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from kills import CELLS, Cell, Nodes, Undisturbed, run_cell
from ray_head import listed

QUICK = {("driver", "annotate"), ("training worker", "train")}
"""Cells of `make test`, with seed 0: the others take more than an hour."""


def cells() -> list[object]:
    every = [Cell(victim, stage, seed) for seed in (0, 1) for victim, stages in CELLS.items() for stage in stages]
    return [
        pytest.param(
            cell,
            id=str(cell),
            marks=[] if (cell.victim, cell.stage) in QUICK and cell.seed == 0 else [pytest.mark.faults],
        )
        for cell in every
    ]


@pytest.mark.parametrize("cell", cells())
def test_a_kill_changes_nothing(cell: Cell, nodes: Nodes, undisturbed: Undisturbed, tmp_path: Path) -> None:
    run_cell(cell, nodes, undisturbed, tmp_path)


def test_no_placement_group_is_left(nodes: Nodes) -> None:
    """Of all the runs before."""
    assert [group for group in listed(nodes.head, "placement-groups") if group["state"] != "REMOVED"] == []
