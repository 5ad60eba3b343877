"""Decoders: from a backbone's feature pyramid to one vector per pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FusionDecoder(nn.Module):
    """Merges all feature maps at the finest stride that is at least ``stride``, then maps them to the embedding.

    Every map is projected to ``width`` channels and upsampled; an image-wide average gives context. GroupNorm, because
    a worker's batch is small and source and target images differ.

    Args:
        channels, strides: of the pyramid, finest first.
        embedding: output channels D.
        width: channels inside.
        stride: image pixels per output vector.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], *, embedding: int, width: int = 96, stride: int = 4
    ) -> None:
        super().__init__()
        self.used = [i for i, s in enumerate(strides) if s >= stride]
        self.lateral = nn.ModuleList(nn.Conv2d(channels[i], width, 1) for i in self.used)
        self.context = nn.Conv2d(channels[-1], width, 1)
        self.fuse = nn.Sequential(
            nn.GroupNorm(8, width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=2, dilation=2, bias=False), nn.GroupNorm(8, width), nn.ReLU(),
        )  # fmt: skip
        self.embed = nn.Conv2d(width, embedding, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """(N, embedding, h, w) of feature maps (N, C, h·, w·)."""
        size = features[self.used[0]].shape[-2:]
        merged = self.context(features[-1].mean((-2, -1), keepdim=True)).expand(-1, -1, *size)
        for lateral, index in zip(self.lateral, self.used, strict=True):
            part = lateral(features[index])
            merged = merged + F.interpolate(part, size=size, mode="bilinear", align_corners=True)
        return torch.as_tensor(self.embed(self.fuse(merged)))
