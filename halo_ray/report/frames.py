"""Frames of the pool: what the model that chose saw in them, and what was bought."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from halo_ray.acquisition.candidates import maps_of
from halo_ray.acquisition.scores import ACQUISITIONS, acquisition_maps
from halo_ray.checkpoint import checkpoint_stage, load_model, scoring_checkpoint
from halo_ray.data.features import network_input
from halo_ray.data.images import read_image
from halo_ray.data.transforms import View
from halo_ray.errors import BadRecordError, InputError
from halo_ray.models.segmenter import Segmenter
from halo_ray.report.reported import Reported
from halo_ray.runtime import inference_here
from halo_ray.seals import check_stage
from halo_ray.secret import redacted
from halo_ray.stages import Stages

EXAMPLES = 3
"""Frames that are shown with their maps: those in which the last round bought most."""

SAMPLED = 4
"""Images that are shown of those in which most, and least, was bought in all rounds."""

GIVEN_UP = 2
"""After so many images that could not be read no more is tried: a store that is away keeps each waiting."""

LONGEST = 640
"""Pixels of the longer side of a map or an image as it is drawn."""

Map = npt.NDArray[np.float32]

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """A figure and what it shows."""

    name: str
    """Of its file, without suffix."""
    figure: Figure
    caption: str


def frame_maps(
    told: Reported, model: Segmenter, function: str | None, image_id: str, image: Pixels, number: int
) -> dict[str, Map]:
    """What a model says of an image (H, W, 3): (H, W) maps by name.

    Args:
        model: the one that chose round ``number``.
        function: the acquisition function whose map is wanted too; None: radius and entropy alone.
    """
    config = told.stored.config
    input_size = config.data.height, config.data.width
    shown = View.whole(input_size).image(Image.fromarray(image)).tobytes()
    with inference_here(), torch.inference_mode():
        maps = maps_of(
            model(network_input([shown], input_size, None, "cpu")),
            image_id,
            (image.shape[0], image.shape[1]),
            config.acquisition,
            curvature=model.curvature,
            seed=config.round_seed(number),
        )
        found = {"radius": maps.radius, "entropy": maps.entropy}
        if function is not None:
            found["acquisition"] = acquisition_maps([function], maps)[function]
    return {name: values[0].float().numpy() for name, values in found.items()}


def examples(told: Reported, *, own_functions: bool) -> tuple[list[Picture], list[str]]:
    """Frames with their maps and the picks of the last purchase, and what is to be said of them: why some are missing.

    Args:
        own_functions: whether an acquisition function that is named by a dotted path may be imported.
    """
    number, name = told.purchases, told.stored.function
    known = own_functions or name in ACQUISITIONS
    notes = [] if known else [f"no acquisition map: {name} is not one of halo_ray's own functions"]
    ids, pictures = [image_id for image_id, _ in _ordered(told.regions[-1])[:EXAMPLES]], []
    images, missing = _read_images(told, ids)
    notes += missing
    try:
        checkpoint = scoring_checkpoint(number)
        check_stage(Stages(told.storage), checkpoint_stage(checkpoint))
        model = load_model(told.storage, checkpoint)
    except InputError as error:
        return [], [*notes, redacted(f"no maps: {error}")]
    picks = told.picks(images)
    for place, (image_id, image) in enumerate(images.items(), start=1):
        maps = frame_maps(told, model, name if known else None, image_id, image, number)
        mine = picks.filter(pc.equal(picks["image_id"], image_id))
        pictures.append(_example(f"frame-{place}", image_id, image, maps, mine, number))
    beta = told.stored.config.acquisition.selection_beta
    if pictures and math.isfinite(beta):
        notes.insert(
            0,
            f"Regions are drawn with probabilities in proportion to the acquisition map to the power of {beta:g} "
            "(acquisition.beta): most lie where it is large, not all at its peaks.",
        )
    return pictures, notes


def sampled(told: Reported) -> tuple[list[Picture], list[str]]:
    """The images in which most and in which least was bought, with all picks, and why some are missing."""
    total = Counter(dict.fromkeys(told.pool["image_id"].to_pylist(), 0))
    for regions in told.regions:
        total.update(regions)
    order = _ordered(total)
    most = order[:SAMPLED]
    least = order[::-1][: max(min(SAMPLED, len(order) - len(most)), 0)]
    images, problems = _read_images(told, [image_id for image_id, _ in (*most, *least)])
    picks, pictures = told.picks(images), []
    for name, chosen in (("most", most), ("least", least)):
        drawn = [
            (image_id, count, images[image_id], picks.filter(pc.equal(picks["image_id"], image_id)))
            for image_id, count in chosen
            if image_id in images
        ]
        if drawn:
            pictures.append(_contact_sheet(name, drawn))
    return pictures, problems


def _read_images(told: Reported, image_ids: list[str]) -> tuple[dict[str, Pixels], list[str]]:
    """Images (H, W, 3) by id, and why some are missing."""
    images, problems = {}, list[str]()
    for image_id in image_ids:
        place = pc.index(told.pool["image_id"], image_id).as_py()
        found = _read(told.pool["image_uri"][place].as_py())
        if not isinstance(found, str):
            images[image_id] = found
            continue
        problems.append(f"image {image_id} is not shown: {found}")
        if len(problems) == GIVEN_UP:
            break
    return images, problems


def _read(uri: str) -> Pixels | str:
    """An image, or why it cannot be read."""
    try:
        return read_image(uri)
    except (BadRecordError, InputError, OSError) as error:
        return redacted(str(error))


def _contact_sheet(name: str, drawn: list[tuple[str, int, Pixels, pa.Table]]) -> Picture:
    height, width = drawn[0][2].shape[:2]
    rows = -(-len(drawn) // 2)
    figure = Figure(figsize=(6.8, rows * (3.3 * height / width + 0.35) + 0.1), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes, (image_id, count, image, picks) in zip(panels, drawn, strict=False):
        _show(axes, image, f"{image_id}: {count} regions")
        _mark(axes, picks, "#E69F00")
    for axes in panels[len(drawn) :]:
        axes.set_axis_off()
    listed = ", ".join(f"{image_id} ({count})" for image_id, count, *_ in drawn)
    return Picture(f"sampled-{name}", figure, f"Images in which {name} regions were bought, in all rounds: {listed}.")


def _example(name: str, image_id: str, image: Pixels, maps: dict[str, Map], picks: pa.Table, number: int) -> Picture:
    """The image and its maps in two columns, with the picks of round ``number``, and on the image those before."""
    height, width = image.shape[:2]
    rows = -(-(1 + len(maps)) // 2)
    figure = Figure(figsize=(6.8, rows * (3.1 * height / width + 0.45) + 0.1), layout="constrained")
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    now = picks.filter(pc.equal(picks["round"], number))
    before = picks.filter(pc.less(picks["round"], number))
    _show(panels[0], image, "image and picks")
    _mark(panels[0], before, "#56B4E9", "s")
    _mark(panels[0], now, "#E69F00")
    for axes, (what, values) in zip(panels[1:], maps.items(), strict=False):
        drawn = axes.imshow(_small(values), cmap="viridis", extent=_extent(values.shape[:2]), interpolation="nearest")
        axes.set_title(what, fontsize=9)
        axes.set(xticks=[], yticks=[])
        figure.colorbar(drawn, ax=axes, shrink=0.85, pad=0.02).ax.tick_params(labelsize=7)
        if what == "acquisition":
            _mark(axes, now, "none")
    for axes in panels[1 + len(maps) :]:
        axes.set_axis_off()
    caption = (
        f"{image_id}, as the model that chose round {number} saw it. Orange circles: the {now.num_rows} regions of "
        f"that round; blue squares: the {before.num_rows} before."
    )
    return Picture(name, figure, caption)


def _show(axes: Axes, image: Pixels, title: str) -> None:
    axes.imshow(_small(image), extent=_extent(image.shape[:2]))
    axes.set_title(title if len(title) < 52 else f"…{title[-50:]}", fontsize=8)
    axes.set(xticks=[], yticks=[])


def _mark(axes: Axes, picks: pa.Table, color: str, marker: str = "o") -> None:
    edge = "white" if color != "none" else "#D55E00"
    axes.scatter(picks["region_x"], picks["region_y"], c=color, s=16, marker=marker, edgecolors=edge, linewidths=0.7)


def _extent(size: tuple[int, ...]) -> tuple[float, float, float, float]:
    """In pixels of the image, however large it is drawn."""
    return -0.5, size[1] - 0.5, size[0] - 0.5, -0.5


def _small(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Every n-th pixel, as many as a figure can show."""
    step = -(-max(values.shape[:2]) // LONGEST)
    return values[::step, ::step]


def _ordered(regions: Counter[str]) -> list[tuple[str, int]]:
    return sorted(regions.items(), key=lambda each: (-each[1], each[0]))
