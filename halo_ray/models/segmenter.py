"""The segmentation network: images to logits and embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from halo_ray.geometry import PoincareMLR, exp0


class Segmentation(NamedTuple):
    """What a segmenter says of N images, at the decoder's stride."""

    logits: Tensor
    """(N, C, h, w)."""
    embedding: Tensor
    """(N, D, h, w): points on the ball, or Euclidean vectors."""


class HyperbolicHead(nn.Module):
    """Maps tangent vectors to the ball and classifies them there."""

    def __init__(self, embedding: int, classes: int, *, curvature: float) -> None:
        super().__init__()
        self.curvature = curvature
        self.classifier = PoincareMLR(embedding, classes, curvature)

    def forward(self, vectors: Tensor) -> Segmentation:
        point = exp0(vectors.float(), self.curvature)
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
    """Backbone, decoder and head; images go in as they lie in memory, uint8 RGB.

    Args:
        mean, std: of each colour channel in 0..1, as the backbone expects them.
    """

    def __init__(
        self, backbone: nn.Module, decoder: nn.Module, head: nn.Module, *, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.backbone, self.decoder, self.head = backbone, decoder, head
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    @property
    def curvature(self) -> float:
        """c of the embedding's ball; 0 for a Euclidean embedding."""
        return float(self.head.curvature)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Segmentation:
        """Segmentation of images (N, H, W, 3), uint8."""
        pixels = images.permute(0, 3, 1, 2).float() / 255
        result: Segmentation = self.head(self.decoder(self.backbone((pixels - self.mean) / self.std)))
        return result
