"""Decoders: from a backbone's feature pyramid to one vector per pixel.

Each takes feature maps, finest first, and gives (N, embedding, h, w) at the resolution of one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from halo_ray.errors import InputError
from halo_ray.models.sampling import upsample


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
        self, channels: Sequence[int], strides: Sequence[int], *, embedding: int, width: int = 64, stride: int = 4
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
        size = _size(features[self.used[0]])
        merged = self.context(features[-1].mean((-2, -1), keepdim=True)).expand(-1, -1, *size)
        for lateral, index in zip(self.lateral, self.used, strict=True):
            merged = merged + upsample(lateral(features[index]), size)
        return torch.as_tensor(self.embed(self.fuse(merged)))


class DeepLabV2Decoder(nn.Module):
    """Parallel dilated convolutions of the coarsest map, summed (Chen et al. 2017, ASPP), at that map's stride.

    Args:
        channels: of the pyramid, finest first.
        embedding: output channels D.
        dilations: of the convolutions.
    """

    def __init__(self, channels: Sequence[int], *, embedding: int, dilations: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels[-1], embedding, 3, padding=dilation, dilation=dilation) for dilation in dilations
        )
        for parameter in self.branches.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.01)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return torch.stack([branch(features[-1]) for branch in self.branches]).sum(0)


class DeepLabV3PlusDecoder(nn.Module):
    """Depthwise-separable ASPP of the coarsest map, refined with the map of stride 4 (Chen et al. 2018).

    Args:
        channels, strides: of the pyramid, finest first.
        embedding: output channels D.
        width: channels of every ASPP branch and of the refinement.
        shortcut: channels of the fine map's projection.
        dilations: of the ASPP branches; 1 is a 1x1 convolution.
        dropout: share of channels dropped in training.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        embedding: int,
        width: int = 512,
        shortcut: int = 48,
        dilations: Sequence[int] = (1, 6, 12, 18),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.fine = next(i for i, s in enumerate(strides) if s >= 4)
        coarse = channels[-1]
        self.branches = nn.ModuleList(
            _convolution(coarse, width) if dilation == 1 else _separable(coarse, width, dilation)
            for dilation in dilations
        )
        self.context = _convolution(coarse, width)
        self.project = _convolution(width * (len(dilations) + 1), width, kernel=3)
        self.shortcut = _convolution(channels[self.fine], shortcut)
        self.refine = nn.Sequential(_separable(width + shortcut, width, 1), _separable(width, width, 1))
        self.dropout = nn.Dropout2d(dropout)
        self.embed = nn.Conv2d(width, embedding, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        coarse, fine = features[-1], features[self.fine]
        if self.training and len(coarse) == 1 and any(isinstance(m, nn.BatchNorm2d) for m in self.context):
            raise InputError(
                "model.decoder deeplabv3plus normalizes image-wide averages over a batch, which holds a single image: "
                "give every worker at least 2 images, or set model.frozen_batch_norm"
            )
        context = self.context(coarse.mean((-2, -1), keepdim=True)).expand(-1, -1, *coarse.shape[-2:])
        merged = self.project(torch.cat([*(branch(coarse) for branch in self.branches), context], 1))
        refined = self.refine(torch.cat([upsample(merged, _size(fine)), self.shortcut(fine)], 1))
        return torch.as_tensor(self.embed(self.dropout(refined)))


class SegformerDecoder(nn.Module):
    """The all-MLP head: every map projected, upsampled, fused (Xie et al. 2021), at the finest map's stride.

    Fusing is linear, so here each map is fused before it is upsampled: the same function of the same weights as the
    paper's concatenation, without its 4·width channels at full resolution. Upsampling is that of the paper
    (align_corners=False). Where ``embedding`` equals ``width`` the fused vectors are the embedding, as in the official
    HALO code; otherwise a 1x1 convolution follows.

    Args:
        channels: of the pyramid, finest first.
        embedding: output channels D.
        width: channels inside.
        dropout: share of values dropped in training.
    """

    def __init__(self, channels: Sequence[int], *, embedding: int, width: int = 256, dropout: float = 0.1) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.fuse = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for _ in channels)
        # As if they were one convolution of all concatenated maps.
        for weight in self.fuse.parameters():
            nn.init.normal_(weight, std=(width * len(channels)) ** -0.5)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Identity() if embedding == width else nn.Conv2d(width, embedding, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        size = _size(features[0])
        fused = [fuse(lateral(x)) for fuse, lateral, x in zip(self.fuse, self.lateral, features, strict=True)]
        merged = torch.stack([F.interpolate(x, size, mode="bilinear", align_corners=False) for x in fused]).sum(0)
        return torch.as_tensor(self.embed(self.dropout(F.relu(self.norm(merged)))))


def _convolution(inputs: int, outputs: int, *, kernel: int = 1, dilation: int = 1, groups: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _separable(inputs: int, outputs: int, dilation: int) -> nn.Sequential:
    """A 3x3 convolution of each channel, then one that mixes channels."""
    return nn.Sequential(
        _convolution(inputs, inputs, kernel=3, dilation=dilation, groups=inputs), _convolution(inputs, outputs)
    )


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]
