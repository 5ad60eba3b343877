"""One picture of a finished experiment: what the labels gave, and where they were bought."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from halo_ray.annotations.ledger import Ledger
from halo_ray.context import Context
from halo_ray.data.images import read_image
from halo_ray.data_report import save_figure

IMAGES = 3
"""Pool images that are shown: those in which most regions were bought."""

VOID = "lightgrey"


def write_overview(context: Context, rows: list[dict[str, Any]]) -> str:
    """Writes report/overview.png and returns its name; ``rows`` are the records of metrics.jsonl."""
    figure = Figure(figsize=(12, 7), layout="constrained")
    grid = figure.add_gridspec(2, IMAGES, height_ratios=(5, 4))
    _quality(figure.add_subplot(grid[0, 0]), rows)
    ledger = Ledger(context.storage).read(
        len(context.plan) + 1, ["image_id", "round", "region_y", "region_x", "guess", "label"], 1
    )
    _classes(figure.add_subplot(grid[0, 1:]), context, ledger["label"].to_numpy())
    picks = ledger.group_by(["image_id", "round", "region_y", "region_x", "guess"]).aggregate([])
    counts = sorted(pc.value_counts(picks["image_id"]).to_pylist(), key=lambda c: (-c["counts"], c["values"]))
    for column, count in enumerate(counts[:IMAGES]):
        _picks(figure.add_subplot(grid[1, column]), context, count["values"], picks)
    return save_figure(figure, context.storage, "report/overview.png")


def _quality(axes: Axes, rows: list[dict[str, Any]]) -> None:
    bought = [row["pixels"] for row in rows]
    axes.plot(bought, [100 * row["miou"] for row in rows], "o-", color="tab:blue", label="with bought labels")
    control = [(row["pixels"], 100 * row["control_miou"]) for row in rows if row["control_miou"] is not None]
    if control:
        start = (rows[0]["pixels"], 100 * rows[0]["miou"])
        axes.plot(*zip(start, *control, strict=True), "s--", color="tab:orange", label="same training without")
    axes.set(xlabel="pixels bought", ylabel="mIoU on the target (%)", title="What the labels gave")
    axes.legend()
    axes.grid(alpha=0.3)


def _classes(axes: Axes, context: Context, labels: npt.NDArray[np.uint8]) -> None:
    """Share of each class among the bought pixels."""
    names = [*context.classes.classes, "void"]
    ids = np.minimum(labels, len(context.classes.classes))
    shares = np.bincount(ids, minlength=len(names)) / max(len(labels), 1)
    colors = [*(context.classes.palette() / 255), VOID]
    axes.bar(names, 100 * shares, color=colors, edgecolor="black", linewidth=0.5)
    axes.set(ylabel="% of the bought pixels", title="Which classes were bought")
    axes.tick_params(axis="x", labelrotation=45)


def _picks(axes: Axes, context: Context, image_id: str, picks: pa.Table) -> None:
    """A pool image with its regions, filled with the colour of the class that the model had guessed."""
    place = pc.index(context.splits.pool["image_id"], image_id).as_py()
    mine = picks.filter(pc.equal(picks["image_id"], image_id))
    axes.imshow(read_image(context.splits.pool["image_uri"][place].as_py()))
    colors = context.classes.palette()[mine["guess"].to_numpy()] / 255
    axes.scatter(mine["region_x"], mine["region_y"], c=colors, s=22, edgecolors="white", linewidths=0.8)
    axes.set_title(f"{image_id}: {mine.num_rows} regions, coloured by the model's guess", fontsize=8)
    axes.set(xticks=[], yticks=[])
