"""Acquisition maps: how much each pixel of an image is worth labelling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from halo_ray.acquisition.stochastic import image_generator
from halo_ray.errors import InputError
from halo_ray.geometry import max_radius, radius, upsampled_radius
from halo_ray.models.sampling import at_places, upsample
from halo_ray.suggest import nearest


class _Inputs(NamedTuple):
    logits: Tensor
    embedding: Tensor
    size: tuple[int, int]
    curvature: float
    region_radius: int
    normalize: str
    uncertainty: str
    image_ids: Sequence[str]
    seed: int


def entropy_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Prediction entropy −Σ p log p / log C in [0, 1], (N, H, W), of logits (N, C, h, w) upsampled to ``size``."""
    log_p = upsample(logits, size).log_softmax(1)
    return -(log_p.exp() * log_p).sum(1) / math.log(logits.shape[1])


def radius_map(embedding: Tensor, size: tuple[int, int], curvature: float) -> Tensor:
    """Radius (N, H, W) of the upsampled embedding; its Euclidean norm where ``curvature`` is 0."""
    return upsampled_radius(embedding, size, curvature) if curvature else upsample(embedding, size).norm(dim=1)


def _halo(inputs: _Inputs) -> Tensor:
    spread = radius_map(inputs.embedding, inputs.size, inputs.curvature)
    if inputs.curvature:
        spread = spread / max_radius(inputs.curvature, spread.dtype)
    return _normalized(spread, inputs) * _normalized(_uncertainty(inputs), inputs)


def _entropy(inputs: _Inputs) -> Tensor:
    return _uncertainty(inputs)


def _radius(inputs: _Inputs) -> Tensor:
    return radius_map(inputs.embedding, inputs.size, inputs.curvature)


def _random(inputs: _Inputs) -> Tensor:
    generators = (image_generator(inputs.seed, image_id) for image_id in inputs.image_ids)
    return torch.stack([torch.rand(inputs.size, generator=generator) for generator in generators])


ACQUISITIONS: dict[str, Callable[[_Inputs], Tensor]] = {
    "halo": _halo,
    "entropy": _entropy,
    "radius": _radius,
    "random": _random,
}


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
        name: ``halo`` (radius/R_max × entropy; Franco et al. 2024, eq. 5), ``entropy``, ``radius``, or ``random``.
        logits: (N, C, h, w).
        embedding: (N, D, h, w), on the ball.
        size: (H, W) of the map.
        curvature: c > 0; 0 for Euclidean embeddings, whose radius is their norm.
        region_radius: r of the (2r+1)² region that is labelled together.
        normalize: ``minmax`` scales radius and entropy to [0, 1] in each image, as the official code can; such scores
            cannot be compared across images.
        uncertainty: ``region`` sums entropy over the region (zero padding); ``pixel`` is that of its centre.
        image_ids: N ids, which seed ``random``.
        seed: of ``random``.

    Returns:
        float32 (N, H, W).

    Raises:
        InputError: unknown name.
        ValueError: ``random`` without image_ids.
    """
    if name not in ACQUISITIONS:
        raise InputError(f"acquisition.function: no function {name!r}; {nearest(name, ACQUISITIONS)}")
    if name == "random" and image_ids is None:
        raise ValueError("random scores are seeded per image: image_ids is needed")
    inputs = _Inputs(logits, embedding, size, curvature, region_radius, normalize, uncertainty, image_ids or (), seed)
    return ACQUISITIONS[name](inputs).float()


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
    vectors = at_places(embedding, *place)
    p = at_places(logits, *place).softmax(1)
    probability, guess = p.max(1)
    return Described(
        radius=radius(vectors, curvature) if curvature else vectors.norm(dim=1),
        entropy=torch.special.entr(p).sum(1) / math.log(logits.shape[1]),
        guess=guess,
        probability=probability,
    )


def _uncertainty(inputs: _Inputs) -> Tensor:
    entropy = entropy_map(inputs.logits, inputs.size)
    if inputs.uncertainty == "pixel" or inputs.region_radius == 0:
        return entropy
    side = 2 * inputs.region_radius + 1
    summed = F.avg_pool2d(entropy[:, None], side, stride=1, padding=inputs.region_radius, divisor_override=1)
    return summed[:, 0]


def _normalized(score: Tensor, inputs: _Inputs) -> Tensor:
    if inputs.normalize == "none":
        return score
    low = score.amin((1, 2), keepdim=True)
    high = score.amax((1, 2), keepdim=True)
    return (score - low) / (high - low).clamp_min(torch.finfo(score.dtype).tiny)
