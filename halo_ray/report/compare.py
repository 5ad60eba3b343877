"""Several experiments beside each other: those that differ in their seed alone are one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from halo_ray.config import identity
from halo_ray.figures import COLORS, LINES, MARKERS
from halo_ray.intervals import CONFIDENCE, half_interval, percent
from halo_ray.report.reported import Reported

FAR = 20
"""Between the budgets of two groups from which on pixels are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Point:
    """What a round of a group gave."""

    round: int
    pixels: float
    """Mean over its seeds."""
    share: float
    """The same, of the pool."""
    miou: float
    """Mean over its seeds, in [0, 1]."""
    interval: float | None
    """Half the width of the 95 % interval of that mean; None for a single one."""
    control: float | None
    """Mean mIoU of the twins without labels."""
    runs: int


@dataclass(frozen=True)
class Group:
    """Experiments that differ in their seed alone."""

    label: str
    members: list[Reported]

    @property
    def seeds(self) -> list[int]:
        return [told.stored.config.seed for told in self.members]

    @property
    def buys(self) -> bool:
        """Whether labels are bought; else it is an end that others are compared with."""
        return self.members[0].stored.config.training.buys

    def points(self) -> list[Point]:
        """For each round, the mean over the seeds that have it."""
        last = max(told.rows[-1]["round"] for told in self.members)
        found = []
        for number in range(last + 1):
            rows = [row for told in self.members for row in told.rows if row["round"] == number]
            values = [row["miou"] for row in rows]
            controls = [row["control_miou"] for row in rows if row["control_miou"] is not None]
            found.append(
                Point(
                    number,
                    float(np.mean([row["pixels"] for row in rows])),
                    float(np.mean([row["budget_spent"] for row in rows])),
                    float(np.mean(values)),
                    half_interval(values),
                    float(np.mean(controls)) if controls else None,
                    len(rows),
                )
            )
        return found


def groups(experiments: Sequence[Reported]) -> list[Group]:
    """The experiments by what they are but for their seed, in the order in which they came."""
    found: dict[str, list[Reported]] = {}
    for told in experiments:
        found.setdefault(repr(sorted(_settings(told).items())), []).append(told)
    settings = [_settings(members[0]) for members in found.values()]
    keys = dict.fromkeys(key for each in settings for key in each)
    different = [key for key in keys if len({repr(each[key]) for each in settings if key in each}) > 1]
    return [Group(_label(own, different), members) for own, members in zip(settings, found.values(), strict=True)]


def curve(compared: Sequence[Group]) -> Figure:
    """mIoU against bought pixels, a line for every group with the interval of its mean; ends lie flat."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    curves = [group.points() for group in compared]
    for place, (group, points) in enumerate(zip(compared, curves, strict=True)):
        color = COLORS[place % len(COLORS)]
        style = LINES[place // len(COLORS) % len(LINES)]
        if not group.buys:
            axes.axhline(100 * points[-1].miou, color=color, linestyle="--", label=group.label)
            continue
        axes.errorbar(
            [point.pixels for point in points],
            [100 * point.miou for point in points],
            yerr=[100 * (point.interval or 0) for point in points],
            color=color,
            marker=MARKERS[place % len(MARKERS)],
            linestyle=style,
            capsize=3,
            label=group.label,
        )
    if len(compared) == 1:
        _control(axes, curves[0])
    most = [
        points[-1].pixels for group, points in zip(compared, curves, strict=True) if group.buys and points[-1].pixels
    ]
    if most and max(most) > FAR * min(most):
        least = min(point.pixels for points in curves for point in points if point.pixels)
        axes.set_xscale("symlog", linthresh=least)
    axes.set(xlabel="pixels bought", ylabel="mIoU on the target's validation split, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def lines_of(compared: Sequence[Group]) -> list[list[str]]:
    """A line for each group and round: label, seeds, round, pixels, share of the pool and mIoU."""
    lines = [["experiment", "seeds", "round", "pixels bought", "share of the pool", "mIoU"]]
    for group in compared:
        lines.extend(
            [
                group.label,
                str(point.runs),
                str(point.round),
                f"{point.pixels:.0f}",
                f"{100 * point.share:.4f} %",
                percent(point.miou, point.interval),
            ]
            for point in group.points()
        )
    return lines


def caption(compared: Sequence[Group]) -> str:
    """How the curve is to be read."""
    text = "Quality against the labels that were paid for."
    if any(len(group.members) > 1 for group in compared):
        text += f" Lines: mean over seeds; bars: {CONFIDENCE:.0%} interval of that mean (Student's t)."
    if any(not group.buys for group in compared):
        text += " Dashed and flat: experiments that buy nothing, after their last round."
    return text


def _control(axes: Any, points: Sequence[Point]) -> None:
    """What the same training gave without labels."""
    known = [(point.pixels, 100 * point.control) for point in points if point.control is not None]
    if known:
        start = (points[0].pixels, 100 * points[0].miou)
        axes.plot(*zip(start, *known, strict=True), "s--", color=COLORS[1], label="same training without labels")


def _settings(told: Reported) -> dict[str, Any]:
    """The identity of an experiment but for its seed, and for what it does not use."""
    config = told.stored.config
    found = identity(config) | {
        "acquisition.function": told.stored.function,
        "annotation.oracle": told.stored.oracle,
    }
    unused = () if config.training.buys else ("acquisition.", "annotation.")
    return {key: value for key, value in found.items() if key != "seed" and not key.startswith(unused)}


def _label(own: dict[str, Any], different: Sequence[str]) -> str:
    """What an experiment is called beside others that differ in some keys."""
    said = ", ".join(f"{key.rpartition('.')[2]} {own[key]}" for key in different if key in own)
    return said or str(own.get("acquisition.function", own["training.protocol"]))
