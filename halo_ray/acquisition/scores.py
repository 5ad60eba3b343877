"""Acquisition functions: how much each pixel of an image is worth labelling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from halo_ray.acquisition.maps import RADIUS_BINS, Maps, impurity
from halo_ray.acquisition.stochastic import uniform_noise
from halo_ray.dotted import own_function, said
from halo_ray.errors import InputError
from halo_ray.geometry import radius
from halo_ray.models.sampling import at_places

Acquisition = Callable[[Maps], Tensor]
"""From the maps of N images to scores (N, H, W); the larger, the rather is a pixel labelled."""


def halo(maps: Maps) -> Tensor:
    """Hyperbolic radius/R_max × entropy (Franco et al. 2024, eq. 5)."""
    return maps.normalized(maps.scarcity) * maps.normalized(maps.uncertainty)


def entropy(maps: Maps) -> Tensor:
    """Prediction entropy alone."""
    return maps.normalized(maps.uncertainty)


def radius_alone(maps: Maps) -> Tensor:
    """Hyperbolic radius alone, in units of the metric."""
    return maps.normalized(maps.radius)


def margin(maps: Maps) -> Tensor:
    """1 − (p of the likeliest class − p of the second) (best-versus-second-best; Joshi et al. 2009)."""
    return maps.margin


def least_confidence(maps: Maps) -> Tensor:
    """1 − p of the likeliest class (Lewis and Gale 1994)."""
    return maps.least_confidence


def random(maps: Maps) -> Tensor:
    """Uniform in (0, 1], a function of seed, image id and pixel alone.

    Raises:
        ValueError: no image_ids.
    """
    if maps.image_ids is None:
        raise ValueError("random scores are seeded per image: image_ids is needed")
    noise = [uniform_noise(maps.size, "random", maps.seed, image_id) for image_id in maps.image_ids]
    return torch.stack(noise).to(maps.logits.device)


def ripu(maps: Maps) -> Tensor:
    """Region impurity × mean region entropy (Xie et al. 2022, eq. 6).

    Both over the region, but over 3x3 pixels where it is a single one, whose impurity would always be 0.
    """
    side = max(maps.region_radius, 1)
    mixed = impurity(maps.guess, maps.logits.shape[1], side)
    return maps.normalized(mixed) * maps.normalized(maps.mean_uncertainty(side))


def hyperbolic_impurity(maps: Maps) -> Tensor:
    """Impurity of the radius × mean region entropy; window as in ripu.

    Radii are sorted into 100 bins of their image's range (official code), so an image of one radius has no impurity.
    """
    side = max(maps.region_radius, 1)
    mixed = impurity(maps.radius_bins, RADIUS_BINS, side)
    return maps.normalized(mixed) * maps.normalized(maps.mean_uncertainty(side))


ACQUISITIONS: dict[str, Acquisition] = {
    "halo": halo,
    "entropy": entropy,
    "radius": radius_alone,
    "margin": margin,
    "least_confidence": least_confidence,
    "random": random,
    "ripu": ripu,
    "hyperbolic_impurity": hyperbolic_impurity,
}


def acquisition(name: str, key: str = "acquisition.function") -> Acquisition:
    """The function of that name: one of ACQUISITIONS, or a user's own by its dotted path (``package.module.function``).

    Args:
        key: of the configuration, as errors name it.

    Raises:
        InputError: there is none.
    """
    if name in ACQUISITIONS:
        return ACQUISITIONS[name]
    return own_function(name, key, ACQUISITIONS, "Maps")


def acquisition_map(
    name: str,
    logits: Tensor,
    embedding: Tensor,
    size: tuple[int, int],
    *,
    curvature: float,
    region_radius: int = 1,
    normalize: Literal["none", "minmax"] = "none",
    uncertainty: Literal["region", "pixel"] = "region",
    image_ids: Sequence[str] | None = None,
    seed: int = 0,
) -> Tensor:
    """The acquisition map ``name`` at label resolution.

    Args:
        name: one of ACQUISITIONS, or a dotted path.
        logits: (N, C, h, w).
        embedding: (N, D, h, w), on the ball.
        size: (H, W) of the map.
        curvature: c > 0; 0 for Euclidean embeddings, whose radius is their norm.
        region_radius: r of the (2r+1)² region that is labelled together.
        normalize: ``minmax`` scales both factors to [0, 1] in each image, as the official code can; such scores cannot
            be compared across images.
        uncertainty: ``region`` sums entropy over the region (zero padding); ``pixel`` is that of its centre.
        image_ids: N ids, which seed ``random``.
        seed: of ``random``.

    Returns:
        float32 (N, H, W).

    Raises:
        InputError: unknown name; a user's own function that fails or gives another shape.
        ValueError: ``random`` without image_ids.
    """
    maps = Maps(
        logits,
        embedding,
        size,
        curvature=curvature,
        region_radius=region_radius,
        normalize=normalize,
        uncertainty=uncertainty,
        image_ids=image_ids,
        seed=seed,
    )
    return acquisition_maps([name], maps)[name]


def acquisition_maps(names: Iterable[str], maps: Maps) -> dict[str, Tensor]:
    """Several acquisition maps, float32 (N, H, W) by name; what they have in common is computed once.

    Raises:
        InputError, ValueError: as acquisition_map.
    """
    scores: dict[str, Tensor] = {}
    for name in names:
        score = _score(name, maps)
        shape = (maps.logits.shape[0], *maps.size)
        if not isinstance(score, Tensor) or tuple(score.shape) != shape:
            got = f"shape {tuple(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
            raise InputError(f"acquisition function {name} gave {got}: it must give a tensor of shape {shape}")
        scores[name] = score.float()
    return scores


def _score(name: str, maps: Maps) -> Any:
    function = acquisition(name)
    if name in ACQUISITIONS:
        return function(maps)
    try:
        return function(maps)
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a user's function raises
        image = "" if maps.image_ids is None else f" on image {maps.image_ids[0]}"
        raise InputError(f"acquisition function {name} failed{image} ({said(error)}): mend it") from error


class Described(NamedTuple):
    """What the model says at single pixels; each field (P,)."""

    radius: Tensor
    entropy: Tensor
    guess: Tensor
    probability: Tensor


def describe_pixels(
    logits: Tensor, embedding: Tensor, y: Tensor, x: Tensor, size: tuple[int, int], *, curvature: float
) -> Described:
    """Radius, entropy, most probable class and its probability at pixels ``y``, ``x`` (P,) of one upsampled image.

    Args:
        logits: (1, C, h, w).
        embedding: (1, D, h, w).
        size: (H, W) that y and x refer to.
    """
    place = (torch.zeros_like(y), y.double() / max(size[0] - 1, 1), x.double() / max(size[1] - 1, 1))
    # Reduced on the CPU: a GPU may add up in another order when other pixels, such as pruned ones, are not there.
    vectors = at_places(embedding, *place).cpu()
    p = at_places(logits, *place).cpu().softmax(1)
    probability, guess = p.max(1)
    return Described(
        radius=radius(vectors, curvature) if curvature else vectors.norm(dim=1),
        entropy=torch.special.entr(p).sum(1) / math.log(logits.shape[1]),
        guess=guess,
        probability=probability,
    )
