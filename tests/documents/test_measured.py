"""What README.md says of speed, and the tables of its two runs, are what was measured."""

from __future__ import annotations

import json

import pytest
from pages import README, ROOT, blocks, section

from halo_ray.benchmarks.all import BENCHMARKS, table
from halo_ray.results import table as results_table

MEASURED = ROOT / "jobs/measured"


def test_the_readme_shows_what_the_benchmarks_measured() -> None:
    found = json.loads((MEASURED / "benchmarks.json").read_text())
    assert set(found["seconds"]) >= set(BENCHMARKS)
    first, *others = blocks(section(README, "What it costs"))
    assert first == table(found)
    printed = ["\n".join(lines) for lines in found["lines"].values()]
    assert len(others) >= 3
    for block in others:  # nothing left out of it, nothing in another order
        assert any(f"\n{block}\n" in f"\n{text}\n" for text in printed)


@pytest.mark.parametrize(("run", "heading"), [("demo", "Two commands"), ("camvid_day_to_dusk", "Real frames")])
def test_the_readme_shows_what_its_runs_reached(run: str, heading: str) -> None:
    rows = [json.loads(line) for line in (MEASURED / run / "metrics.jsonl").read_text().splitlines()]
    assert results_table(rows) in blocks(section(README, heading))
