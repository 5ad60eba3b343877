"""What a study has found: every run in one JSON, from which all else is computed, and tables and a plot of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from halo_ray.annotations.ledger import Ledger
from halo_ray.config import Config, identity
from halo_ray.data.classes import IGNORE
from halo_ray.errors import InputError
from halo_ray.figures import COLORS, LINES, MARKERS, save_figure
from halo_ray.intervals import CONFIDENCE, half_interval, percent
from halo_ray.report.correlation import RadiusCorrelation, radius_correlation
from halo_ray.results import Row, has_metrics, read_metrics
from halo_ray.storage import Storage, digest_of
from halo_ray.sweep.space import FINISHED, as_texts, configure, status
from halo_ray.sweep.study import Case, Study
from halo_ray.text_table import text_table

RESULTS = "results.json"

_KEPT = ("iou", "accuracy", "class_accuracy", "class_share", "class_radius")
"""Of the first record and the last."""

_APART = 1.03
"""Factor between neighbouring points of a budget in the plot."""

_DIGITS = 6
"""Behind the point: more than any table shows."""

_Key = tuple[str, float, int, str]
"""Variant, budget, seed, and the hash of all settings."""


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


def recorded_runs(base: Config, study: Study) -> dict[str, dict[str, Any]]:
    """The runs in results.json that are trials of ``study`` with the same settings, by name.

    Raises:
        InputError: the file is not that of a study.
    """
    held = _held(Storage(base.output_dir))
    names = ((case.name, (case.variant, case.budget, case.seed, _settings(base, case))) for case in study.points())
    return {name: held[key] for name, key in names if key in held} if held else {}


def refuse_study(storage: Storage) -> None:
    """Raises InputError where results.json is that of a study, which a sweep would write over."""
    if storage.exists(RESULTS) and isinstance(storage.read_json(RESULTS), dict):
        raise InputError(f"{storage.uri}/{RESULTS} is that of a study: name another output_dir")


def write_study(base: Config, study: Study, known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Writes results.json, results.txt and study.png to the study's directory; gives what the first holds.

    Runs of trials that the study no longer has, or has with other settings, stay in results.json as ``other_runs``.

    Args:
        known: runs by name, whose trials are not looked for.
    """
    storage = Storage(base.output_dir)
    runs = [run for case in study.points() if (run := known.get(case.name) or _run(base, case))]
    now = {_key(run) for run in runs}
    found = {
        "base": as_texts({key: value for key, value in _comparable(base).items() if key not in study.swept}),
        "variants": {name: as_texts(own) for name, own in study.variants.items()},
        "tables": [asdict(table) for table in study.tables],
        "runs": runs,
        "other_runs": [run for key, run in _held(storage).items() if key not in now],
    }
    storage.write_json(RESULTS, found)
    storage.write("results.txt", (study_text(found) + "\n").encode())
    save_figure(_plot(found), storage, "study.png")
    return found


def _held(storage: Storage) -> dict[_Key, dict[str, Any]]:
    """All runs that results.json holds, where there is one."""
    if not storage.exists(RESULTS):
        return {}
    try:
        found = storage.read_json(RESULTS)
        return {_key(run): run for run in (*found["runs"], *found.get("other_runs", ()))}
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{storage.uri}/{RESULTS} is not that of a study: move it away, or name another output_dir"
        ) from error


def _key(run: Mapping[str, Any]) -> _Key:
    return run["variant"], run["budget"], run["seed"], run["settings"]


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


def _run(base: Config, case: Case) -> dict[str, Any] | None:
    """What a trial that is finished found; None of any other."""
    config = configure(base, case)
    storage = Storage(config.output_dir)
    if status(base, case) != FINISHED or not has_metrics(storage):
        return None
    rows = read_metrics(storage)
    return {
        "variant": case.variant,
        "budget": case.budget,
        "seed": case.seed,
        "settings": _settings(base, case),
        "miou": [round(row["miou"], _DIGITS) for row in rows],
        "pixels": rows[-1]["pixels"],
        "images": rows[-1]["images_touched"],
        "bought": _bought(storage, rows, config.rounds),
        "first": _rounded({key: rows[0][key] for key in _KEPT}),
        "last": _rounded({key: rows[-1][key] for key in _KEPT}),
        "seconds": {str(row["round"]): {k: round(v, 1) for k, v in row["seconds"].items()} for row in rows},
        "versions": rows[-1]["versions"],
    }


def _settings(base: Config, case: Case) -> str:
    """Names all settings of a trial, by their hash."""
    return digest_of(as_texts(_comparable(configure(base, case))))


def _comparable(config: Config) -> dict[str, Any]:
    """What makes trials on different machines the same: all identity keys, but not where the weights lie."""
    found = identity(config)
    return found | {"model.backbone": found["model.backbone"].rstrip("/").rpartition("/")[2]}


def _bought(storage: Storage, rows: Sequence[Row], rounds: int) -> dict[str, int]:
    """Bought pixels by class."""
    labels = Ledger(storage).read(rounds + 1, ["label"], first=1)["label"].to_numpy()
    counts = {name: int((labels == number).sum()) for number, name in enumerate(rows[0]["iou"])}
    return counts | {"void": int((labels == IGNORE).sum())}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(below) for key, below in value.items()}
    return round(value, _DIGITS) if isinstance(value, float) else value


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
