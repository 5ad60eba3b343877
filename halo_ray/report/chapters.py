"""What a report says of one experiment, chapter by chapter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from halo_ray.report import charts
from halo_ray.report.correlation import radius_correlation
from halo_ray.report.frames import Picture, examples, sampled
from halo_ray.report.reported import Reported
from halo_ray.results import STAGES, table_lines

PAPER = -0.899
"""The correlation of a class's radius with its share of the labels that the paper reports."""


@dataclass(frozen=True)
class Table:
    """Lines of cells; the first line has the names of the columns, the first cell of a line its own."""

    lines: list[list[str]]
    caption: str = ""


@dataclass(frozen=True)
class Chapter:
    """A heading and what stands below it, in this order."""

    title: str
    text: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def summary(told: Reported) -> str:
    """One sentence."""
    first, last = told.rows[0], told.rows[-1]
    quality = f"mIoU {100 * first['miou']:.1f} % → {100 * last['miou']:.1f} %"
    if not told.purchases:
        return f"Nothing was bought: {quality}."
    control = last["control_miou"]
    without = "" if control is None else f"; the same training without labels: {100 * control:.1f} %"
    return (
        f"{told.purchases} rounds bought {last['pixels']:,} pixels in {last['images_touched']:,} of "
        f"{told.pool.num_rows:,} images, {100 * last['budget_spent']:.4f} % of the pool: {quality}{without}."
    )


def chapters(told: Reported, *, frames: bool, own_functions: bool) -> Iterator[Chapter]:
    """All that is known of the experiment.

    Args:
        frames: whether images of the pool are shown, which take most of a page and of its time.
        own_functions: whether an acquisition function that is named by a dotted path may be imported.
    """
    yield Chapter(
        "Quality by class",
        pictures=[
            Picture(
                "class-iou", charts.class_iou(told), "IoU of each class after each round; grey: from first to last."
            )
        ],
        tables=[Table(table_lines(told.rows), "All rounds, in percent.")],
    )
    if told.purchases:
        yield _bought(told)
    yield _radius(told)
    if told.histograms:
        caption = "All vectors of the validation split at the decoder's resolution, a line for the model of each round."
        if told.stored.config.model.geometry == "hyperbolic":
            top = next(iter(told.histograms.values()))["radius_top"]
            caption += f" Radii of this ball end at {top:.1f}; the last thousandth of the vectors is not shown."
        last = max(found["radius"][-1] / max(sum(found["radius"]), 1) for found in told.histograms.values())
        if last > 1e-3:
            caption += f" Up to {100 * last:.1f} % of the vectors lie in the last bin or above it."
        yield Chapter("Radius and entropy by round", pictures=[Picture("histograms", charts.histograms(told), caption)])
    if told.purchases and frames:
        shown, missing = examples(told, own_functions=own_functions)
        yield Chapter("What the model saw", missing, shown)
        sheets, missing = sampled(told)
        yield Chapter("Most and least sampled images", missing, sheets)
    yield _time(told)


def _bought(told: Reported) -> Chapter:
    names = [*told.classes.classes, "void"]
    rounds = [f"round {number}" for number in range(1, told.purchases + 1)]
    head = ["class", *rounds, "all", "% of those with a class"]
    shares = [*(f"{100 * share:.2f}" for share in charts.bought_shares(told)), "-"]
    lines = [
        [name, *map(str, pixels), str(pixels.sum()), share]
        for name, pixels, share in zip(names, told.bought.T, shares, strict=True)
    ]
    text, pictures = [], []
    if told.shares is None:
        text.append("How common each class is was not recorded by the version that ran this experiment.")
    else:
        where = told.shares[1]
        caption = f"How often each class was bought (dots) against how common it is in {where} (bars)."
        pictures.append(Picture("bought-classes", charts.bought_classes(told), caption))
        for line, share, bought in zip(lines, told.shares[0], charts.bought_shares(told), strict=False):
            line += [f"{100 * share:.2f}", f"{bought / share:.1f}×" if share else "-"]
        lines[-1] += ["-", "-"]
        head += [f"% of {where}", "bought over common"]
    return Chapter("Which classes were bought", text, pictures, [Table([head, *lines], "Pixels by class and round.")])


def _radius(told: Reported) -> Chapter:
    title = "Radius and scarcity"
    found = {row["round"]: known for row in told.rows if (known := radius_correlation(row)) is not None}
    if not found:
        return Chapter(title, ["Radii of classes were not recorded by the version that ran this experiment."])
    number, last = max(found.items())
    caption = f"Mean radius of each class against its share of the pixels, after round {number}"
    if last.with_share is not None:
        caption += f"; correlation {last.with_share:+.3f}. The paper reports {PAPER:+.3f}"
    head = ["round", "radius and share", "the same by ranks", "radius and accuracy"]
    lines = [
        [str(each), *(_signed(value) for value in (known.with_share, known.with_share_ranks, known.with_accuracy))]
        for each, known in found.items()
    ]
    by_class = [["class", "% of the pixels", "mean radius"]]
    by_class += [
        [name, f"{100 * share:.2f}", f"{radius:.3f}"]
        for name, share, radius in zip(last.names, last.shares, last.radii, strict=True)
    ]
    return Chapter(
        title,
        ["HALO takes a large radius for scarcity: if so, the correlation of radius and share is clearly negative."],
        [Picture("radius", charts.radius_and_scarcity(last), f"{caption}.")],
        [
            Table(lines=[head, *lines], caption="Correlations over the classes of the validation split, by round."),
            Table(by_class, f"Classes after round {number}."),
        ],
    )


def _time(told: Reported) -> Chapter:
    rows = told.rows
    stages = [stage for stage in STAGES if any(stage in row["seconds"] for row in rows)]
    lines = [["round", *stages, "sum"]]
    for row in rows:
        seconds = [row["seconds"].get(stage) for stage in stages]
        cells = ["-" if value is None else f"{value:.1f}" for value in seconds]
        lines.append([str(row["round"]), *cells, f"{sum(filter(None, seconds)):.1f}"])
    caption = "Seconds of each stage, in the run that finished it."
    return Chapter(
        "Time", pictures=[Picture("time", charts.time_of_stages(rows), caption)], tables=[Table(lines, "Seconds.")]
    )


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"
