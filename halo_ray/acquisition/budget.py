"""What may be bought: the share of the pool, in how many rounds, in regions of what size."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

import numpy as np

from halo_ray.acquisition.scores import acquisition
from halo_ray.acquisition.threshold import Sequences
from halo_ray.bounds import Range, check_ranges
from halo_ray.errors import InputError

MOST_ROUNDS, LARGEST_REGION, LARGEST_WINDOW = 10_000, 1000, 65_536

BUDGET = Range(1e-15, 1e15)
Cap = Annotated[float, Range(1, 1e6, infinite=True)]


@dataclass(frozen=True)
class AcquisitionConfig:
    """Which pixels are bought."""

    function: str = "halo"
    """Acquisition function: halo (radius × entropy), entropy, radius, margin, least_confidence, random, ripu,
    hyperbolic_impurity, or the dotted path of your own (package.module.function)."""
    budget: Annotated[float, BUDGET] = 0.002
    """What is bought over all rounds, in units of budget_unit."""
    budget_unit: Literal["share", "pixels", "regions"] = "share"
    """share of all pool pixels (above 0, at most 1), number of pixels, or number of regions (clicks)."""
    rounds: Annotated[int, Range(1, MOST_ROUNDS)] = 3
    """Number of rounds."""
    scope: Literal["pool", "image"] = "pool"
    """pool: the best regions of the whole pool; image: the same number in every image (paper)."""
    region_radius: Annotated[int, Range(0, LARGEST_REGION)] = 1
    """r in pixels: a region is the (2r+1)² square around its pixel and is labelled pixel by pixel."""
    exclusion_radius: Annotated[int, Range(0, LARGEST_WINDOW)] = 5
    """e in pixels: no other region is centred in the (2e+1)² square around a bought one."""
    image_cap: Cap = 8.0
    """Scope pool: the most regions of one image in one round, in multiples of its fair share."""
    sequence: str | None = None
    """Scope pool: regular expression whose match in an image id (its first group, if it has one) names the image's
    sequence, for sequence_cap."""
    sequence_cap: Cap = 2.0
    """The most regions of one sequence in one round, in multiples of its fair share."""
    never: str | None = None
    """Image below data_root, of the pool images' size; where it is not black nothing is ever picked (ego vehicle)."""
    beta: Annotated[float | None, Range(1e-6, 1e6, infinite=True)] = None
    """Stochastic selection: regions are sampled in proportion to score^beta; .inf takes the best; null: 1 for scope
    pool, .inf for scope image (paper)."""
    normalize: Literal["none", "minmax"] = "none"
    """minmax scales radius and entropy to [0, 1] in each image (paper; scope image only)."""
    uncertainty: Literal["region", "pixel"] = "region"
    """Entropy summed over the region, or that of its centre."""

    def __post_init__(self) -> None:
        check_ranges(self, "acquisition.")
        unit = self.budget_unit
        if unit == "share" and self.budget > 1:
            raise InputError(
                f"acquisition.budget is {self.budget}: a share of the pool's pixels lies above 0, at most 1; for a "
                "number of pixels or regions set acquisition.budget_unit"
            )
        if unit != "share" and (self.budget < 1 or self.budget != int(self.budget)):
            raise InputError(f"acquisition.budget is {self.budget}: a number of {unit} is whole and at least 1")
        acquisition(self.function)
        if self.sequence is not None:
            if self.scope == "image":
                raise InputError(
                    "acquisition.sequence contradicts acquisition.scope image, where every image has a share of its "
                    "own: set scope to pool or sequence to null"
                )
            try:
                re.compile(self.sequence)
            except re.error as error:
                raise InputError(
                    f"acquisition.sequence {self.sequence!r} is no regular expression ({error}): mend it"
                ) from error
        if self.normalize == "minmax" and self.scope == "pool":
            raise InputError(
                "acquisition.normalize minmax contradicts acquisition.scope pool: scores scaled in each image cannot "
                "be compared across images; set scope to image or normalize to none"
            )

    @property
    def window_radius(self) -> int:
        """Around a bought region nothing is picked: not in its exclusion window, nor in what was bought."""
        return max(self.exclusion_radius, self.region_radius)

    @property
    def selection_beta(self) -> float:
        """beta, or what null stands for."""
        return self.beta if self.beta is not None else 1.0 if self.scope == "pool" else math.inf


@dataclass(frozen=True)
class RoundPlan:
    """What one round buys."""

    regions: int
    """Regions over the whole pool."""
    share: str
    """The same as a share of the pool's pixels, before rounding: an exact fraction such as 1/1500."""


def plan_budget(
    config: AcquisitionConfig, sizes: Sequence[tuple[int, int]], planned: Sequence[RoundPlan] = ()
) -> list[RoundPlan]:
    """The plan of every round; those after ``planned`` share what the budget leaves, the last takes the rest.

    Args:
        sizes: (height, width) of every pool image.
        planned: rounds that stand already, which are kept as they are.

    Raises:
        InputError: a round would buy nothing.
    """
    new = config.rounds - len(planned)
    pixels = sum(h * w for h, w in sizes)
    share = (_share(config, pixels) - sum(Fraction(plan.share) for plan in planned)) / new
    if config.scope == "image":
        counts = [sum(_paper_share(config, h * w, share) for h, w in sizes)] * new
    else:
        total = math.floor(_share(config, pixels) * pixels / region_pixels(config))
        total -= sum(plan.regions for plan in planned)
        counts = [total // new] * new
        counts[-1] += total % new
    if counts[0] <= 0:
        raise InputError(
            f"acquisition.budget {config.budget} leaves {max(sum(counts), 0)} regions of {region_pixels(config)} "
            f"pixels for {new} rounds, less than one each: raise it or lower acquisition.rounds"
        )
    return [*planned, *(RoundPlan(count, str(share)) for count in counts)]


def room(config: AcquisitionConfig, sizes: Iterable[tuple[int, int]]) -> int:
    """The most regions that the exclusion windows leave room for in images of those sizes (height, width)."""
    step = config.window_radius + 1
    return sum(math.ceil(h / step) * math.ceil(w / step) for h, w in sizes)


def image_limit(config: AcquisitionConfig, size: tuple[int, int], plan: RoundPlan, pool_pixels: int) -> int:
    """The most regions of an image of ``size`` (height, width) in a round of that plan."""
    pixels = size[0] * size[1]
    if config.scope == "image":
        return _paper_share(config, pixels, Fraction(plan.share))
    if math.isinf(config.image_cap):
        return plan.regions
    return math.ceil(Fraction(str(config.image_cap)) * plan.regions * pixels / pool_pixels)


def sequence_of(config: AcquisitionConfig, image_id: str) -> str:
    """The sequence of an image; call it only where acquisition.sequence is set.

    Raises:
        InputError: the id does not match.
    """
    found = re.search(config.sequence or "", image_id)
    name = None if found is None else found[1 if found.re.groups else 0]
    if name is None:
        raise InputError(
            f"acquisition.sequence {config.sequence!r} does not match the image id {image_id!r}: every id must name a "
            "sequence"
        )
    return str(name)


def capped_sequences(
    config: AcquisitionConfig, image_ids: Sequence[str], sizes: Sequence[tuple[int, int]], plan: RoundPlan
) -> Sequences | None:
    """The sequences of a pool's images and their caps in a round of that plan; None where they have none.

    Raises:
        InputError: an id does not match acquisition.sequence.
    """
    if config.sequence is None or math.isinf(config.sequence_cap):
        return None
    names: dict[str, int] = {}
    of = np.array([names.setdefault(sequence_of(config, image_id), len(names)) for image_id in image_ids], np.int32)
    pixels = [0] * len(names)
    for sequence, (h, w) in zip(of.tolist(), sizes, strict=True):
        pixels[sequence] += h * w
    fair = Fraction(str(config.sequence_cap)) * plan.regions / sum(pixels)
    caps = [math.ceil(fair * own) for own in pixels]
    return Sequences(of, np.array(caps, np.int64))


def region_pixels(config: AcquisitionConfig) -> int:
    """Pixels that a region is charged."""
    return (2 * config.region_radius + 1) ** 2


def _share(config: AcquisitionConfig, pool_pixels: int) -> Fraction:
    """The whole budget as a share of the pool's pixels, as it was written: 0.0003 of 90,000 is 27, not 26.99..."""
    budget = Fraction(str(config.budget))
    if config.budget_unit == "share":
        return budget
    return budget * (region_pixels(config) if config.budget_unit == "regions" else 1) / pool_pixels


def _paper_share(config: AcquisitionConfig, pixels: int, share: Fraction) -> int:
    return math.ceil(pixels * share / region_pixels(config))
