"""What a study has found: every run in one JSON, from which all else is computed, and tables and a plot of it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from halo_ray.config import Config
from halo_ray.figures import COLORS, LINES, MARKERS, save_figure
from halo_ray.intervals import CONFIDENCE, half_interval, percent
from halo_ray.report.correlation import RadiusCorrelation, radius_correlation
from halo_ray.storage import Storage
from halo_ray.sweep.directory import RESULTS
from halo_ray.sweep.study import Study
from halo_ray.sweep.study_runs import found_by
from halo_ray.text_table import text_table

_APART = 1.03
"""Factor between neighbouring points of a budget in the plot."""

TEXT = "results.txt"


@dataclass(frozen=True)
class Cell:
    """A variant with a budget, over its seeds."""

    values: dict[int, float]
    """mIoU in [0, 1] after the last round, by seed."""
    over: list[float]
    """Its differences to the reference, for the seeds that both have."""

    def text(self, *, compared: bool) -> str:
        """In percent: mean and interval; in brackets the same of the differences."""
        if not self.values:
            return "-"
        said = _mean([*self.values.values()])
        return f"{said} ({_mean(self.over, '+')})" if compared and self.over else said


def write_study(
    storage: Storage,
    base: Config,
    study: Study,
    known: Mapping[str, dict[str, Any]],
    finished: Container[str] = (),
) -> dict[str, Any]:
    """Writes results.json, results.txt and study.png to the study's directory; gives what the first holds.

    Runs of trials that the study no longer has, or has with other settings, stay in results.json as ``other_runs``.

    Args:
        known: runs by name, whose trials are not looked for.
        finished: names of trials that are known to be.
    """
    found = found_by(base, study, known, finished)
    storage.write_sealed(RESULTS, found)
    storage.write(TEXT, text_of(found))
    save_figure(_plot(found), storage, "study.png")
    return found


def text_of(found: Mapping[str, Any]) -> bytes:
    """The content of results.txt."""
    return f"{study_text(found)}\n".encode()


def study_text(found: Mapping[str, Any]) -> str:
    """All tables of what results.json holds."""
    parts = [table_text(found, table["title"]) for table in found["tables"]]
    return "\n\n".join([*parts, radius_text(found), bought_text(found)])


def table_text(found: Mapping[str, Any], title: str) -> str:
    """The table of that title: a line for each variant, a column for each budget."""
    table = next(table for table in found["tables"] if table["title"] == title)
    reference, budgets = table["reference"], table["budget"]
    lines = [["variant", *(f"{100 * budget:g} %" for budget in budgets)]]
    missing = wanted = 0
    for variant in table["variants"]:
        cells = [_cell(found, table, variant, budget) for budget in budgets]
        lines.append([variant, *(cell.text(compared=variant != reference) for cell in cells)])
        missing += sum(table["seeds"] - len(cell.values) for cell in cells)
        wanted += table["seeds"] * len(cells)
    how = f"mIoU in %, mean ± {CONFIDENCE:.0%} interval over {table['seeds']} seeds"
    compared = f"; in brackets: over {reference} with the same seeds" if len(table["variants"]) > 1 else ""
    unfinished = f"; {missing} of {wanted} trials are missing" if missing else ""
    return "\n".join([f"{title}: {how}{compared}{unfinished}", "", *text_table(lines)])


def radius_text(found: Mapping[str, Any]) -> str:
    """For each variant the correlation of a class's mean radius with its share, and with its accuracy."""
    lines = [["variant", "budget", "share", "ranks", "accuracy", "share before", "accuracy before"]]
    for (variant, budget), runs in _by_variant(found).items():
        after = [radius_correlation(run["last"]) for run in runs]
        before = [radius_correlation(run["first"]) for run in runs]
        told = [
            *(_mean_correlation(after, name) for name in ("with_share", "with_share_ranks", "with_accuracy")),
            *(_mean_correlation(before, name) for name in ("with_share", "with_accuracy")),
        ]
        lines.append([variant, f"{100 * budget:g} %", *told])
    head = "Correlation of a class's mean radius with its share of the pixels and with its accuracy, mean over seeds"
    return "\n".join([f"{head}; after the last round, and before any purchase", "", *text_table(lines)])


def _mean_correlation(found: Sequence[RadiusCorrelation | None], name: str) -> str:
    known = [value for each in found if each is not None and (value := getattr(each, name)) is not None]
    return f"{np.mean(known):+.2f}" if known else "-"


def bought_text(found: Mapping[str, Any]) -> str:
    """For each variant which classes its pixels were, in percent, and how many images they lay in."""
    names = list(found["runs"][0]["last"]["iou"]) if found["runs"] else []
    lines = [["variant", "budget", "images", *names, "void"]]
    for (variant, budget), runs in _by_variant(found).items():
        counts = np.sum([[run["bought"].get(name, 0) for name in (*names, "void")] for run in runs], axis=0)
        if counts.sum():
            shares = (f"{100 * share:.1f}" for share in counts / counts.sum())
            lines.append([variant, f"{100 * budget:g} %", f"{np.mean([run['images'] for run in runs]):.0f}", *shares])
    return "\n".join(["Which pixels were bought, % of them by class, all seeds", "", *text_table(lines)])


def _by_variant(found: Mapping[str, Any]) -> dict[tuple[str, float], list[dict[str, Any]]]:
    """The runs of each variant and budget, in the order of the tables."""
    runs: dict[tuple[str, float], list[dict[str, Any]]] = {
        (variant, budget): []
        for table in found["tables"]
        for budget in table["budget"]
        for variant in table["variants"]
    }
    for run in found["runs"]:
        runs[run["variant"], run["budget"]].append(run)
    return {key: own for key, own in runs.items() if own}


def _cell(found: Mapping[str, Any], table: Mapping[str, Any], variant: str, budget: float) -> Cell:
    own, reference = (
        {
            run["seed"]: run["miou"][-1]
            for run in found["runs"]
            if (run["variant"], run["budget"]) == (name, budget) and run["seed"] < table["seeds"]
        }
        for name in (variant, table["reference"])
    )
    return Cell(own, [own[seed] - reference[seed] for seed in own if seed in reference])


def _mean(values: Sequence[float], sign: str = "") -> str:
    return percent(float(np.mean(values)), half_interval(values), sign)


def _plot(found: Mapping[str, Any]) -> Figure:
    """mIoU by budget of the tables that have several; variants that buy nothing lie flat, as ends."""
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.add_subplot()
    swept = [table for table in found["tables"] if len(table["budget"]) > 1]
    lines: dict[str, dict[float, Mapping[str, Any]]] = {}
    for table in swept:
        for variant in table["variants"]:
            for budget in table["budget"]:  # one line each, in however many tables it stands
                lines.setdefault(variant, {}).setdefault(budget, table)
    for number, (variant, tables) in enumerate(lines.items()):
        first = next(iter(tables.values()))
        cells = [(budget, _cell(found, table, variant, budget)) for budget, table in sorted(tables.items())]
        known = [(100 * budget, [100 * v for v in cell.values.values()]) for budget, cell in cells if cell.values]
        axes.errorbar(
            # Beside each other, so that no interval hides another.
            [budget * _APART ** (number - (len(lines) - 1) / 2) for budget, _ in known],
            [float(np.mean(values)) for _, values in known],
            yerr=[half_interval(values) or 0 for _, values in known],
            color=COLORS[number % len(COLORS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle="--" if variant == first["reference"] else LINES[number // len(COLORS) % len(LINES)],
            capsize=3,
            label=variant,
        )
    for (variant, _), runs in _by_variant(found).items():
        if not any(runs[0]["bought"].values()):
            miou = 100 * float(np.mean([run["miou"][-1] for run in runs]))
            axes.axhline(miou, color="0.4", linestyle=":")
            axes.annotate(
                variant,
                (0.01, miou),
                xycoords=("axes fraction", "data"),
                va="bottom",
                fontsize=8,
            )
    if lines:
        axes.set_xscale("log")
        budgets = sorted({100 * budget for table in swept for budget in table["budget"]})
        axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
        axes.minorticks_off()
        axes.legend(fontsize=8)
    axes.set(xlabel="pixels bought, % of the pool", ylabel="mIoU on the target's validation split, %")
    axes.grid(alpha=0.3)
    return figure
