"""What may be bought: the share of the pool, in how many rounds, in regions of what size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from halo_ray.acquisition.scores import ACQUISITIONS
from halo_ray.errors import InputError
from halo_ray.suggest import nearest


@dataclass(frozen=True)
class AcquisitionConfig:
    """Which pixels are bought."""

    function: str = "halo"
    """Acquisition function: halo (radius × entropy), entropy, radius or random."""
    budget: float = 0.002
    """Share of all pool pixels that is bought over all rounds, above 0 and at most 1."""
    rounds: int = 3
    """Number of rounds."""
    scope: Literal["pool", "image"] = "pool"
    """pool: the best regions of the whole pool; image: the same number in every image (paper)."""
    region_radius: int = 1
    """r in pixels: a region is the (2r+1)² square around its pixel and is labelled pixel by pixel."""
    exclusion_radius: int = 5
    """e in pixels: no other region is centred in the (2e+1)² square around a bought one."""
    image_cap: float = 8.0
    """Scope pool: the most regions of one image in one round, in multiples of its fair share."""
    beta: float | None = None
    """Stochastic selection: regions are sampled in proportion to score^beta; .inf takes the best; null: 1 for scope
    pool, .inf for scope image (paper)."""
    normalize: Literal["none", "minmax"] = "none"
    """minmax scales radius and entropy to [0, 1] in each image (paper; scope image only)."""
    uncertainty: Literal["region", "pixel"] = "region"
    """Entropy summed over the region, or that of its centre."""

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise InputError(
                f"acquisition.budget is {self.budget}: a share of the pool's pixels lies above 0, at most 1"
            )
        for key, least in (("rounds", 1), ("region_radius", 0), ("exclusion_radius", 0), ("image_cap", 1)):
            if not getattr(self, key) >= least:
                raise InputError(f"acquisition.{key} is {getattr(self, key)}: it must be at least {least}")
        if self.beta is not None and not self.beta > 0:
            raise InputError(f"acquisition.beta is {self.beta}: it must be above 0 (.inf takes the best regions)")
        if self.function not in ACQUISITIONS:
            raise InputError(
                f"acquisition.function: no function {self.function!r}; {nearest(self.function, ACQUISITIONS)}"
            )
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
    share: float
    """The same as a share of the pool's pixels, before rounding."""


def plan_budget(
    config: AcquisitionConfig, sizes: Sequence[tuple[int, int]], planned: Sequence[RoundPlan] = ()
) -> list[RoundPlan]:
    """The plan of every round; those after ``planned`` share what the budget leaves, the last takes the rest.

    Args:
        sizes: (height, width) of every pool image.
        planned: rounds that stand already, which are kept as they are.

    Raises:
        InputError: a round would buy nothing, or the pool cannot hold so many regions.
    """
    new = config.rounds - len(planned)
    budget = Fraction(str(config.budget))  # as it was written: 0.0003 of 90,000 pixels is 27, not 26.99...
    share = (budget - sum(Fraction(str(plan.share)) for plan in planned)) / new
    if config.scope == "image":
        counts = [sum(_paper_share(config, h * w, share) for h, w in sizes)] * new
    else:
        total = math.floor(budget * sum(h * w for h, w in sizes) / region_pixels(config))
        total -= sum(plan.regions for plan in planned)
        counts = [total // new] * new
        counts[-1] += total % new
    if counts[0] <= 0:
        raise InputError(
            f"acquisition.budget {config.budget} leaves {max(sum(counts), 0)} regions of {region_pixels(config)} "
            f"pixels for {new} rounds, less than one each: raise it or lower acquisition.rounds"
        )
    plans = [*planned, *(RoundPlan(count, float(share)) for count in counts)]
    step = config.window_radius + 1
    room = sum(math.ceil(h / step) * math.ceil(w / step) for h, w in sizes)
    wanted = sum(plan.regions for plan in plans)
    if wanted > room:
        raise InputError(
            f"acquisition.budget {config.budget} asks for {wanted} regions, but the pool holds at most {room} with "
            f"exclusion_radius {config.exclusion_radius}: lower one of them"
        )
    return plans


def image_limit(config: AcquisitionConfig, size: tuple[int, int], plan: RoundPlan, pool_pixels: int) -> int:
    """The most regions of an image of ``size`` (height, width) in a round of that plan."""
    pixels = size[0] * size[1]
    if config.scope == "image":
        return _paper_share(config, pixels, Fraction(str(plan.share)))
    if math.isinf(config.image_cap):
        return plan.regions
    return math.ceil(config.image_cap * plan.regions * pixels / pool_pixels)


def region_pixels(config: AcquisitionConfig) -> int:
    """Pixels that a region is charged."""
    return (2 * config.region_radius + 1) ** 2


def _paper_share(config: AcquisitionConfig, pixels: int, share: Fraction) -> int:
    return math.ceil(pixels * share / region_pixels(config))
