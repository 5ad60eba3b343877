"""The page of a report, read as a browser would, and its numbers against the files of the experiment."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest


class Page(HTMLParser):
    """The tables (lists of lines of cells), images (their bytes), addresses and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.images: list[bytes] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self._cell: list[str] | None = None
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attributes)
        self.addresses += [str(given[name]) for name in ("src", "href", "action", "data") if name in given]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = []
        elif tag == "img":
            head, _, data = str(given["src"]).partition(",")
            assert head == "data:image/png;base64"
            assert given["alt"]
            self.images.append(base64.b64decode(data, validate=True))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append("".join(self._cell).strip())
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell is not None:
            self._cell.append(data)

    def table(self, first: str, number: int = 0) -> dict[str, list[str]]:
        """The lines of a table whose first cell is ``first``, by their own first cell."""
        found = [table for table in self.tables if table[0][0] == first]
        return {line[0]: line[1:] for line in found[number]}


def metrics(experiment: Path) -> list[dict]:
    return [json.loads(line) for line in (experiment / "metrics.jsonl").read_text().splitlines()]


def check_numbers(page: Page, experiment: Path) -> None:
    """All numbers of the page of an experiment are those of its files."""
    rows = metrics(experiment)
    quality = page.table("round")
    assert quality["round"] == [str(row["round"]) for row in rows]
    assert quality["pixels bought"] == [str(row["pixels"]) for row in rows]
    assert quality["images touched"] == [str(row["images_touched"]) for row in rows]
    for place, row in enumerate(rows):
        assert float(quality["mIoU"][place]) == pytest.approx(100 * row["miou"], abs=0.051)
        for name, iou in row["iou"].items():
            said = quality[f"IoU {name}"][place]
            assert said == "-" if iou is None else float(said) == pytest.approx(100 * iou, abs=0.051)
    last = rows[-1]
    assert f"{last['pixels']:,} pixels in {last['images_touched']:,} of" in page.text
    assert f"{100 * rows[0]['miou']:.1f} % → {100 * last['miou']:.1f} %" in page.text

    names, bought = list(last["iou"]), page.table("class")
    files = [experiment / f"rounds/{row['round']:03d}/annotations/ledger.parquet" for row in rows[1:]]
    labels = [pq.read_table(file)["label"].to_numpy() for file in files]
    everything = np.concatenate(labels)
    known = everything[everything != 255]
    for number, name in [*enumerate(names), (255, "void")]:
        counts = [int((each == number).sum()) for each in labels]
        assert bought[name][: len(counts) + 1] == [str(count) for count in (*counts, sum(counts))]
        if number != 255:
            share = 100 * np.mean(known == number) if len(known) else 0
            assert float(bought[name][len(counts) + 1]) == pytest.approx(share, abs=0.0051)

    correlations = page.table("round", 1)
    for row in rows:
        kept = [name for name in names if row["class_radius"][name] is not None and row["class_share"][name]]
        radius, share, accuracy = (
            np.array([row[key][name] for name in kept]) for key in ("class_radius", "class_share", "class_accuracy")
        )
        ranks = [np.argsort(np.argsort(values)).astype(float) for values in (radius, share)]
        expected = [_correlation(radius, share), _correlation(*ranks), _correlation(radius, accuracy)]
        found = [float(cell) if cell != "-" else None for cell in correlations[str(row["round"])]]
        assert found == pytest.approx(expected, abs=0.00051)
    of_class = page.table("class", 1)
    for name, radius in last["class_radius"].items():
        if name in of_class:
            said = [100 * last["class_share"][name], radius]
            assert [float(cell) for cell in of_class[name]] == pytest.approx(said, abs=0.0051)

    seconds = page.table("round", 2)
    for row in rows:
        said = dict(zip(seconds["round"], seconds[str(row["round"])], strict=True))
        total = float(said.pop("sum"))
        assert {stage: float(cell) for stage, cell in said.items() if cell != "-"} == pytest.approx(
            row["seconds"], abs=0.051
        )
        assert total == pytest.approx(sum(row["seconds"].values()), abs=0.051)


def _correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's, by its formula."""
    x, y = x - x.mean(), y - y.mean()
    if not x.any() or not y.any():
        return None
    return float((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()))
