"""The charts of one experiment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from halo_ray.figures import COLORS
from halo_ray.report.correlation import RadiusCorrelation
from halo_ray.report.reported import Reported
from halo_ray.results import STAGES, Row

WIDTH = 6.4
"""Inches of every chart: so wide that its text can be read on a phone."""

SHOWN = 0.999
"""Share of the vectors that the histogram of radii shows; the last few would leave the others no room."""

LABEL_PLACES = (
    (0, 6, "center"),
    (0, -6, "center"),
    (7, 0, "left"),
    (-7, 0, "right"),
    (0, 16, "center"),
    (0, -16, "center"),
)
"""Points to the right of a point and above it, and how a name there is aligned; the first that fits is taken."""

STAGE_COLORS = dict(zip(STAGES, (*COLORS, "#999999"), strict=True))


def round_colors(rounds: Sequence[Any]) -> list[Any]:
    """From dark to light, as lightness alone tells them apart too."""
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.88, len(rounds))))


def class_iou(told: Reported) -> Figure:
    """IoU of each class, a dot for every round."""
    names, rows = told.classes.classes, told.rows
    figure, axes = _by_class(names)
    for row, color in zip(rows, round_colors(rows), strict=True):
        known = [(100 * value, place) for place, name in enumerate(names) if (value := row["iou"][name]) is not None]
        if known:
            axes.scatter(*zip(*known, strict=True), color=color, s=34, zorder=3, label=f"round {row['round']}")
    for place, name in enumerate(names):
        ends = [100 * rows[n]["iou"][name] for n in (0, -1) if rows[n]["iou"][name] is not None]
        axes.plot(ends, [place] * len(ends), color="#bbbbbb", linewidth=2, zorder=2)
    axes.set(xlabel="IoU on the target's validation split, %", xlim=(-2, 102))
    axes.legend(fontsize=8, ncols=min(len(rows), 4), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return figure


def bought_classes(told: Reported) -> Figure:
    """The share of each class among the bought pixels against that which it has anyway."""
    assert told.shares is not None
    names, (shares, where) = told.classes.classes, told.shares
    figure, axes = _by_class(names)
    bought = bought_shares(told)
    places = np.arange(len(names))
    least = min((each for each in (*shares, *bought) if each), default=1e-4) / 2
    left, right = (np.maximum(values, least) for values in (shares, bought))
    axes.hlines(places, 100 * left, 100 * right, color="#bbbbbb", linewidth=2, zorder=2)
    axes.scatter(100 * left, places, marker="|", s=130, color=COLORS[0], linewidths=3, zorder=3, label=f"in {where}")
    axes.scatter(100 * right, places, marker="o", s=40, color=COLORS[1], zorder=3, label="among bought pixels")
    axes.set(xscale="log", xlabel="% of the pixels with a class (leftmost: none)")
    axes.xaxis.set_major_formatter(_plain)
    axes.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return figure


def bought_shares(told: Reported) -> npt.NDArray[np.float64]:
    """(C,) the share of each class among the bought pixels that have one."""
    pixels = told.bought[:, :-1].sum(0)
    shares: npt.NDArray[np.float64] = pixels / max(int(pixels.sum()), 1)
    return shares


def radius_and_scarcity(found: RadiusCorrelation) -> Figure:
    """Mean radius of each class against the share of the pixels that it has."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot()
    shares = 100 * np.array(found.shares)
    axes.scatter(shares, found.radii, color=COLORS[0], s=36, zorder=3)
    axes.set(xscale="log", xlabel="% of the validation split's pixels", ylabel="mean radius of the class")
    axes.xaxis.set_major_formatter(_plain)
    axes.margins(0.1, 0.12)
    axes.grid(alpha=0.3)
    figure.draw_without_rendering()  # which says where the points will be
    _name_points(axes, shares, found.radii, found.names)
    return figure


def histograms(told: Reported) -> Figure:
    """Radii and entropies of all vectors, a line for every round."""
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1)
    for (number, found), color in zip(told.histograms.items(), round_colors(list(told.histograms)), strict=True):
        _density(above, found["radius"], found["radius_top"], color, f"round {number}")
        _density(below, found["entropy"], 1.0, color, f"round {number}")
    above.set(xlabel=_radius_name(told), ylabel="density", ylim=(0, None))
    above.set_xlim(0, max(_reach(found["radius"], found["radius_top"]) for found in told.histograms.values()))
    below.set(xlabel="prediction entropy, of its largest", ylabel="density", yscale="log", xlim=(0, 1))
    below.yaxis.set_major_formatter(_plain)
    for axes in (above, below):
        axes.grid(alpha=0.3)
    above.legend(fontsize=8)
    return figure


def time_of_stages(rows: Sequence[Row]) -> Figure:
    """Seconds of each stage, a bar for every round."""
    figure = Figure(figsize=(WIDTH, 1.4 + 0.34 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    places, left = np.arange(len(rows)), np.zeros(len(rows))
    for stage in STAGES:
        seconds = np.array([row["seconds"].get(stage, 0) for row in rows])
        if seconds.any():
            axes.barh(places, seconds, left=left, color=STAGE_COLORS[stage], edgecolor="white", label=stage)
            left += seconds
    axes.set_yticks(places, [f"round {row['round']}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _by_class(names: Sequence[str]) -> tuple[Figure, Any]:
    """Axes with a line for every class, the first above."""
    figure = Figure(figsize=(WIDTH, 1.3 + 0.27 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    return figure, axes


def _plain(value: float, _: float) -> str:
    """Ticks of logarithmic axes as numbers, not as powers of ten."""
    return f"{value:g}"


def _name_points(axes: Axes, x: npt.NDArray[np.float64], y: Sequence[float], names: Sequence[str]) -> None:
    """Writes each name beside its point: where it covers neither a point nor another name, if there is such a place."""
    points = axes.transData.transform(np.column_stack([x, y]))
    taken = [Bbox.from_extents(*(point - 4), *(point + 4)) for point in points]
    for name, (left, low) in zip(names, zip(x, y, strict=True), strict=True):
        boxes: list[tuple[int, int, Any, Bbox]] = []
        for across, up, aligned in LABEL_PLACES:
            how: dict[str, Any] = {"ha": aligned, "va": "center" if up == 0 else "bottom" if up > 0 else "top"}
            text = axes.annotate(name, (left, low), (across, up), textcoords="offset points", fontsize=8, **how)
            box = text.get_window_extent()
            boxes.append((sum(box.overlaps(other) for other in taken), len(boxes), text, box))
            text.remove()
        _, _, text, box = min(boxes, key=lambda each: each[:2])
        axes.add_artist(text)
        taken.append(box)


def _density(axes: Any, counts: Sequence[int], top: float, color: Any, label: str) -> None:
    edges, total = np.linspace(0, top, len(counts) + 1), max(sum(counts), 1)
    axes.stairs(np.array(counts) / total / (top / len(counts)), edges, color=color, label=label, linewidth=1.6)


def _reach(counts: Sequence[int], top: float) -> float:
    """Below which SHOWN of the vectors lie."""
    total = np.cumsum(counts)
    return float((np.searchsorted(total, SHOWN * total[-1]) + 2) / len(counts) * top)


def _radius_name(told: Reported) -> str:
    if told.stored.config.model.geometry == "euclidean":
        return "norm of the embedding"
    return "hyperbolic radius"
