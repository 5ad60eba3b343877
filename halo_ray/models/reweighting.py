"""Hyperbolic feature reweighting (HFR; Franco et al. 2024, section 3.3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST_WEIGHT = 1e-5
"""A channel's weight never falls below this, as in the official implementation."""


class FeatureReweighting(nn.Module):
    """Scales every channel to unit L2 norm over an image's positions, then by a learned weight of that image.

    A channel's weight is the spatial mean of a small network's output, at least 1e-5. The network's batch norm is a
    live one, even where all others are frozen.

    Args:
        channels: D.
        resolution_free: multiply by √(h·w), so that the vectors' lengths do not shrink as images grow; the official
            implementation, and so its checkpoints, do without.
        frozen_statistics: the batch norm stays in evaluation mode.
    """

    def __init__(self, channels: int, *, resolution_free: bool, frozen_statistics: bool = False) -> None:
        super().__init__()
        self.frozen_statistics = frozen_statistics
        self.resolution_free = resolution_free
        self.hidden = nn.Linear(channels, channels)
        self.norm = nn.BatchNorm1d(channels)
        self.weigh = nn.Linear(channels, channels)

    def train(self, mode: bool = True) -> FeatureReweighting:
        super().train(mode)
        self.norm.train(mode and not self.frozen_statistics)
        return self

    def forward(self, vectors: Tensor) -> Tensor:
        """Reweighted vectors (N, D, h, w); computed in float32, whatever autocast says."""
        with torch.autocast(vectors.device.type, enabled=False):
            return self._reweight(vectors.to(torch.promote_types(vectors.dtype, torch.float32)))

    def _reweight(self, vectors: Tensor) -> Tensor:
        count, channels, rows, cols = vectors.shape
        positions = vectors.permute(0, 2, 3, 1).reshape(-1, channels)
        hidden = F.relu(self.norm(self.hidden(positions)))
        # The last layer is linear, so it may follow the mean over positions instead of coming before it.
        weights = self.weigh(hidden.view(count, rows * cols, channels).mean(1)).clamp_min(SMALLEST_WEIGHT)
        if self.resolution_free:
            weights = weights * math.sqrt(rows * cols)
        unit: Tensor = F.normalize(vectors.flatten(2), dim=2) * weights[:, :, None]
        return unit.view_as(vectors)
