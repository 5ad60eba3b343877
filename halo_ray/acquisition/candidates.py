"""One image: from what the network says of it to its candidate regions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from halo_ray.acquisition.budget import AcquisitionConfig
from halo_ray.acquisition.maps import Maps
from halo_ray.acquisition.regions import Picks, exclusion_mask, pick_regions
from halo_ray.acquisition.scores import Described, acquisition_maps, describe_pixels
from halo_ray.acquisition.stochastic import stochastic_keys
from halo_ray.models.segmenter import Segmentation


class Image(NamedTuple):
    """What is known of an image before it is scored."""

    image_id: str
    size: tuple[int, int]
    """(H, W) at label resolution."""
    limit: int
    """The most candidates that it may have."""
    taken: Tensor
    """bool (H, W): places that are not to be picked."""


class Found(NamedTuple):
    """The candidates of an image for one acquisition function."""

    picks: Picks
    described: Described
    score: Tensor
    """float32 (H, W): the map that was picked from, on the CPU."""
    pruned: int
    """The most candidates that the bound can have kept from being found."""


def taken_places(
    size: tuple[int, int], y: Tensor, x: Tensor, config: AcquisitionConfig, never: Tensor | None
) -> Tensor:
    """bool (H, W): the windows of regions asked before, centred at ``y``, ``x`` (K,), and what is never picked.

    Args:
        never: bool (H, W).
    """
    asked = exclusion_mask(size, y, x, config.window_radius)
    return asked if never is None else asked | never


def find_candidates(
    said: Segmentation,
    image: Image,
    config: AcquisitionConfig,
    *,
    curvature: float,
    seed: int,
    bounds: Mapping[str, float],
) -> tuple[dict[str, Found], Maps]:
    """The candidates of an image, by acquisition function, and the maps that they share.

    Args:
        said: of this image alone.
        curvature: of its embedding; 0 for Euclidean ones.
        seed: of the experiment and the round.
        bounds: the functions to score, each with a score below which nothing need be found (−inf: all counts).
    """
    maps = maps_of(said, image.image_id, image.size, config, curvature=curvature, seed=seed)
    found = {}
    for name, score in acquisition_maps(bounds, maps).items():
        keys = stochastic_keys(score[0].cpu(), beta=config.selection_beta, seed=seed, image_id=image.image_id)
        picks = pick_regions(
            keys,
            image.limit,
            region_radius=config.region_radius,
            exclusion_radius=config.exclusion_radius,
            taken=image.taken,
            bound=bounds[name],
        )
        y, x = picks.y.to(said.logits.device), picks.x.to(said.logits.device)
        described = describe_pixels(*said, y, x, image.size, curvature=curvature)
        pruned = image.limit - len(picks.y) if math.isfinite(bounds[name]) else 0
        found[name] = Found(picks, described, keys, pruned)
    return found, maps


def maps_of(
    said: Segmentation, image_id: str, size: tuple[int, int], config: AcquisitionConfig, *, curvature: float, seed: int
) -> Maps:
    """The maps of one image; arguments as find_candidates takes them."""
    return Maps(
        *said,
        size,
        curvature=curvature,
        region_radius=config.region_radius,
        normalize=config.normalize,
        uncertainty=config.uncertainty,
        image_ids=[image_id],
        seed=seed,
    )
