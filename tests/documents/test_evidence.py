"""What README.md and the page about the comparison say is what the committed results hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from halo_ray.config import parse_config
from halo_ray.sweep.study import read_study
from halo_ray.sweep.study_results import bought_text, radius_text, study_text, table_text

ROOT = Path(__file__).parents[2]
PRESETS = ROOT / "jobs/presets"
README, PAGE = ROOT / "README.md", PRESETS / "evidence_camvid.md"
FIGURE = re.compile(r"[+−-]?\d+\.\d+|\d+ ± \d+")
"""A number that was measured, not counted."""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return json.loads((PRESETS / "evidence_camvid.json").read_text())


def blocks(text: str) -> list[str]:
    """Fenced blocks without a language."""
    return re.findall(r"^```\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)


def prose(text: str, heading: str) -> str:
    """A section of a page without its blocks and without code."""
    own = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert own, f"there is no section {heading!r}"
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", own[1], flags=re.DOTALL | re.MULTILINE))


def figures(text: str) -> Iterator[str]:
    return (figure.replace("−", "-") for figure in FIGURE.findall(text))


def test_every_trial_of_the_study_is_there(found: dict[str, Any]) -> None:
    base = parse_config(["--preset", "evidence_camvid"], PRESETS)
    wanted = {(case.variant, case.budget, case.seed) for case in read_study(PRESETS / "studies/evidence_camvid.yaml", base).points()}
    assert {(run["variant"], run["budget"], run["seed"]) for run in found["runs"]} == wanted
    assert len(found["runs"]) == len(wanted)


def test_the_settings_are_those_that_were_run(found: dict[str, Any]) -> None:
    tree = yaml.safe_load((PRESETS / "studies/evidence_camvid.yaml").read_text())
    assert {name: sorted(own) for name, own in found["variants"].items()} == {
        name: sorted(own) for name, own in tree["variants"].items()
    }


def test_the_readme_shows_the_tables_of_the_results(found: dict[str, Any]) -> None:
    shown = blocks(README.read_text())
    assert table_text(found, "functions") in shown
    assert table_text(found, "ends") in shown


def test_the_page_shows_all_of_them(found: dict[str, Any]) -> None:
    shown = blocks(PAGE.read_text())
    for text in (*(table_text(found, table["title"]) for table in found["tables"]), radius_text(found), bought_text(found)):
        assert text in shown


@pytest.mark.parametrize(
    ("file", "heading"), [(README, "Does it choose better?"), (PAGE, "What came out"), (PAGE, "The paper's claim")]
)
def test_figures_in_the_text_are_those_of_the_results(file: Path, heading: str, found: dict[str, Any]) -> None:
    held = set(figures(study_text(found)))
    said = list(figures(prose(file.read_text(), heading)))
    assert said
    assert [figure for figure in said if figure not in held] == []
