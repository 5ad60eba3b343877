"""The segmentation network: images to logits and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from halo_ray.geometry import PoincareMLR, check_finite, exp0


class Segmentation(NamedTuple):
    """What a segmenter says of N images, at the decoder's stride."""

    logits: Tensor
    """(N, C, h, w)."""
    embedding: Tensor
    """(N, D, h, w): points on the ball, or Euclidean vectors."""


class HyperbolicHead(nn.Module):
    """Maps tangent vectors to the ball and classifies them there, in float32 whatever autocast says."""

    def __init__(self, embedding: int, classes: int, *, curvature: float) -> None:
        super().__init__()
        self.curvature = curvature
        self.classifier = PoincareMLR(embedding, classes, curvature)

    def forward(self, vectors: Tensor) -> Segmentation:
        with torch.autocast(vectors.device.type, enabled=False):
            point = exp0(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), self.curvature)
            return Segmentation(self.classifier(point), point)


class EuclideanHead(nn.Module):
    """Classifies vectors linearly: the same network without hyperbolic geometry."""

    curvature = 0.0

    def __init__(self, embedding: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(embedding, classes, 1)

    def forward(self, vectors: Tensor) -> Segmentation:
        return Segmentation(self.classifier(vectors), vectors)


class Segmenter(nn.Module):
    """Backbone, decoder and head; images go in as they lie in memory, uint8 RGB, or as features of the backbone.

    Args:
        reweighting: between decoder and head; None leaves the vectors as they are.
        mean, std: of each colour channel in 0..1, as the backbone expects them.
    """

    def __init__(
        self,
        backbone: nn.Module,
        decoder: nn.Module,
        head: nn.Module,
        *,
        reweighting: nn.Module | None = None,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone, self.decoder, self.head = backbone, decoder, head
        self.reweighting = reweighting or nn.Identity()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    @property
    def curvature(self) -> float:
        """c of the embedding's ball; 0 for a Euclidean embedding."""
        return float(self.head.curvature)  # type: ignore[arg-type]

    def forward(self, images: Tensor | Sequence[Tensor]) -> Segmentation:
        """Segmentation of images (N, H, W, 3), uint8, or of what ``features`` gave; raises what ``segment`` does."""
        if isinstance(images, Tensor):
            return self._from_features(self.features(images))
        return self._from_features([maps.to(self.mean.dtype) for maps in images])

    def features(self, images: Tensor) -> list[Tensor]:
        """The backbone's feature maps of images (N, H, W, 3), uint8, finest first."""
        maps: list[Tensor] = self.backbone(self._normalized(images))
        return maps

    def segment(self, pixels: Tensor) -> Segmentation:
        """Segmentation of normalized images (N, 3, H, W).

        Raises:
            InputError: the images are smaller than the backbone's output stride.
            BadRecordError: in evaluation mode, NaN or infinity came out (in training the loss shows it, without
                waiting for the device here).
        """
        return self._from_features(self.backbone(pixels))

    def _normalized(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).to(self.mean.dtype) / 255
        return (pixels - self.mean) / self.std

    def _from_features(self, features: Sequence[Tensor]) -> Segmentation:
        result: Segmentation = self.head(self.reweighting(self.decoder(features)))
        if not self.training:
            check_finite("the embedding", result.embedding)
            check_finite("the logits", result.logits)
        return result
