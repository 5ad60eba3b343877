"""What an inspection of the data found, for people: text, JSON and pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.data.images import read_image, read_label
from halo_ray.data.inspection import Inspection, summary
from halo_ray.data.manifest import SPLITS, Splits
from halo_ray.errors import InputError
from halo_ray.figures import save_figure
from halo_ray.png_mark import foreign, mark
from halo_ray.root import INSPECTION, INSPECTOR
from halo_ray.storage import Storage

PICTURES = tuple(f"{INSPECTION}/{name}.png" for name in ("class_shares", *SPLITS))
"""Files that write_pictures may write."""

JSON_KEYS = ("class_set", "splits", "bad_records")
"""Keys of as_json."""

SAMPLES = 4
"""Images of a split that are shown."""

BAR = 16
"""Characters of the longest bar in the text."""


def class_shares(inspection: Inspection) -> dict[str, npt.NDArray[np.float64]]:
    """By split with labels, the share of all pixels (C+1,) that each class has, and last that of void."""
    return {
        split: found.class_pixels / found.class_pixels.sum()
        for split, found in inspection.splits.items()
        if found.class_pixels is not None
    }


def as_json(inspection: Inspection, classes: ClassSet) -> dict[str, Any]:
    """Counts, sizes, changes and class shares of each split, and all bad records."""
    names, shares = [*classes.classes, "void"], class_shares(inspection)
    return {
        "class_set": classes.name,
        "splits": {
            split: {
                **summary(found),
                "class_pixels": _by_name(names, None if found.class_pixels is None else found.class_pixels.tolist()),
                "class_shares": _by_name(names, shares[split].tolist() if split in shares else None),
            }
            for split, found in inspection.splits.items()
        },
        "bad_records": inspection.bad,
    }


def as_text(inspection: Inspection, classes: ClassSet) -> str:
    """The same to read, with a bar for each class share."""
    lines = []
    for split, found in inspection.splits.items():
        said = summary(found)
        most = sorted(said["sizes"].items(), key=lambda item: -item[1])
        shown = ", ".join(f"{size} ({count})" for size, count in most[:SAMPLES])
        more = f" and {len(most) - SAMPLES} more sizes" if len(most) > SAMPLES else ""
        lines.append(f"{split}: {said['images']} images of {shown or 'no size'}{more}; {said['skipped']} bad")
        lines += [f"  {count} {change}" for change, count in said["changes"].items()]
    shares = class_shares(inspection)
    if shares:
        lines += ["", *_bars([*classes.classes, "void"], shares)]
    if inspection.bad:
        lines += ["", "bad records:"]
        lines += [f"  {record['split']} {record['image_id']}: {record['problem']}" for record in inspection.bad]
    return "\n".join(lines)


def write_pictures(splits: Splits, inspection: Inspection, classes: ClassSet, storage: Storage) -> list[str]:
    """Writes a bar chart of the class shares and samples of each split below inspection/; returns their names.

    Raises:
        InputError: as check_pictures.
    """
    figures = {}
    shares = class_shares(inspection)
    if shares:
        figures["class_shares"] = _chart(classes, shares)
    for split in SPLITS:
        if getattr(splits, split).num_rows:
            figures[split] = _samples(split, getattr(splits, split), classes)
    check_pictures(storage)  # again, as long as it took to read the data
    return [
        save_figure(figure, storage, f"{INSPECTION}/{name}.png", mark(INSPECTOR)) for name, figure in figures.items()
    ]


def check_pictures(storage: Storage) -> None:
    """Raises InputError where a picture would take the place of what no inspection wrote."""
    for name in PICTURES:
        if (why := foreign(storage, name, INSPECTOR)) is not None:
            raise InputError(f"{storage.uri}/{name} cannot be written ({why}): move what is there")


def _by_name(names: list[str], values: list[Any] | None) -> dict[str, Any] | None:
    return None if values is None else dict(zip(names, values, strict=True))


def _bars(names: list[str], shares: dict[str, npt.NDArray[np.float64]]) -> list[str]:
    longest = max(float(values.max()) for values in shares.values())
    column, width = BAR + 8, max(map(len, names))
    lines = ["% of pixels".ljust(max(width, 11)) + "".join(f"   {split:<{column}}" for split in shares)]
    for place, name in enumerate(names):
        cells = []
        for values in shares.values():
            share = float(values[place])
            # At least a sliver for a class that is there at all.
            bar = "█" * round(BAR * share / longest) or ("▏" if share else "")
            cells.append(f"{100 * share:6.2f} {bar}")
        lines.append(name.ljust(max(width, 11)) + "".join(f"   {cell:<{column}}" for cell in cells))
    return [line.rstrip() for line in lines]


def _chart(classes: ClassSet, shares: dict[str, npt.NDArray[np.float64]]) -> Figure:
    names = [*classes.classes, "void"]
    figure = Figure(figsize=(max(8, 0.7 * len(names)), 4.5), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(shares)
    for number, (split, values) in enumerate(shares.items()):
        places = np.arange(len(names)) + (number - (len(shares) - 1) / 2) * width
        axes.bar(places, 100 * values, width, label=split)
    axes.set_xticks(np.arange(len(names)), names, rotation=45, ha="right")
    axes.set(ylabel="% of all pixels", title="How common each class is", yscale="symlog")
    axes.set_yticks([0, 1, 2, 5, 10, 20, 50], ["0", "1", "2", "5", "10", "20", "50"])
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure


def _samples(split: str, table: pa.Table, classes: ClassSet) -> Figure:
    """Some images of a split, spread over it, and the same under their labels."""
    count = min(SAMPLES, table.num_rows)
    rows = table.take(np.linspace(0, table.num_rows - 1, count).astype(np.int64)).to_pylist()
    ratio = rows[0]["height"] / rows[0]["width"]
    figure = Figure(figsize=(3.6 * count, 3.6 * ratio * 2 + 1.6), layout="constrained")
    grid = figure.subplots(2, count, squeeze=False)
    for above, below, row in zip(grid[0], grid[1], rows, strict=True):
        image = read_image(row["image_uri"])
        _show(above, image, row["image_id"])
        if row["label_uri"] is None:
            _show(below, np.full_like(image, 255), "no label")
            continue
        label = read_label(row["label_uri"], classes, row["label_format"], (row["height"], row["width"]))
        _show(below, overlay(image, label, classes), "")
    colors = classes.palette() / 255
    handles = [Patch(color=color, label=name) for color, name in zip(colors, classes.classes, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 8), fontsize=8, frameon=False)
    figure.suptitle(f"{split}: images, and their labels (void is left as it is)")
    return figure


def overlay(
    image: npt.NDArray[np.uint8], label: npt.NDArray[np.uint8], classes: ClassSet, strength: float = 0.65
) -> npt.NDArray[np.uint8]:
    """The image (H, W, 3) under the colours of its classes (H, W); void is left as it is."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(classes.classes)] = classes.palette()
    weight = np.where(label == IGNORE, 0, strength)[..., None]
    return np.asarray(image * (1 - weight) + colors[label] * weight, np.uint8)


def _show(axes: Axes, image: npt.NDArray[np.uint8], title: str) -> None:
    axes.imshow(image)
    axes.set_title(title, fontsize=8)
    axes.set(xticks=[], yticks=[])
