"""What README.md and the page about the comparison say is what the committed results hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import README, ROOT, blocks, section

from halo_ray.config import identity, parse_config
from halo_ray.errors import InputError
from halo_ray.storage import Storage
from halo_ray.sweep.directory import RESULTS
from halo_ray.sweep.study import Study, Table, read_study
from halo_ray.sweep.study_results import bought_text, radius_text, study_text, table_text
from halo_ray.sweep.study_runs import read_results

PRESETS = ROOT / "jobs/presets"
PAGE = PRESETS / "evidence_camvid.md"
FIGURE = re.compile(r"[+−-]?\d+\.\d+(?: ± \d+\.\d+)?")
"""A number that was measured, not counted, together with its interval."""
OF_THE_PAPER = {"-0.899"}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return json.loads((PRESETS / "evidence_camvid.json").read_text())


def prose(file: Path, heading: str) -> str:
    """A section without its blocks and without code."""
    text = re.sub(r"^```.*?^```$", "", section(file, heading), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def figures(text: str) -> Iterator[str]:
    return (figure.replace("−", "-") for figure in FIGURE.findall(text))


@pytest.fixture(scope="module")
def study() -> Study:
    return read_study(PRESETS / "studies/evidence_camvid.yaml", parse_config(["--preset", "evidence_camvid"], PRESETS))


def test_a_study_goes_on_from_the_file(found: dict[str, Any], tmp_path: Path) -> None:
    """As the page says, and knows whether it was edited."""
    data = (PRESETS / "evidence_camvid.json").read_bytes()
    storage = Storage(str(tmp_path))
    storage.write(RESULTS, data)
    assert read_results(storage) == {key: value for key, value in found.items() if key != "sha256"}
    storage.write(RESULTS, data.replace(b'"seed": 0', b'"seed": 1', 1))
    with pytest.raises(InputError, match=RESULTS):
        read_results(storage)


def test_every_trial_of_the_study_is_there(found: dict[str, Any], study: Study) -> None:
    wanted = [(case.variant, case.budget, case.seed) for case in study.points()]
    assert sorted((run["variant"], run["budget"], run["seed"]) for run in found["runs"]) == sorted(wanted)


def test_the_settings_are_those_that_were_run(found: dict[str, Any], study: Study) -> None:
    settings = {name: {key: str(value) for key, value in own.items()} for name, own in study.variants.items()}
    assert found["variants"] == settings
    now = identity(parse_config(["--preset", "evidence_camvid"], PRESETS))
    now["model.backbone"] = Path(now["model.backbone"]).name  # wherever it lies
    assert found["base"] == {key: str(now[key]) for key in found["base"]}
    assert [Table(**(own | {key: tuple(own[key]) for key in ("variants", "budget")})) for own in found["tables"]] == [
        *study.tables
    ]


def test_the_readme_shows_the_tables_of_the_results(found: dict[str, Any]) -> None:
    shown = blocks(section(README, "Does it choose better?"))
    assert table_text(found, "functions") in shown
    assert table_text(found, "ends") in shown


def test_the_page_shows_all_of_them(found: dict[str, Any]) -> None:
    shown = blocks(PAGE.read_text())
    for text in (
        *(table_text(found, table["title"]) for table in found["tables"]),
        radius_text(found),
        bought_text(found),
    ):
        assert text in shown


@pytest.mark.parametrize(
    ("file", "heading"), [(README, "Does it choose better?"), (PAGE, "What came out"), (PAGE, "The paper's claim")]
)
def test_figures_in_the_text_are_those_of_the_results(file: Path, heading: str, found: dict[str, Any]) -> None:
    held = set(figures(study_text(found)))
    held |= {figure.partition(" ")[0] for figure in held} | OF_THE_PAPER  # a mean may be said without its interval
    said = list(figures(prose(file, heading)))
    assert said
    assert [figure for figure in said if figure not in held] == []
