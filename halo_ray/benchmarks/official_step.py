"""A training step as the official HALO code takes it: the other side of the benchmark of ours.

Written from what its trainer does: source and pool images go through the network one after the other, logits are
upsampled to the image before every loss, bought pixels are a dense map, expmap and MLR are float64, and two Riemannian
SGD optimizers move all weights.
"""

from __future__ import annotations

import geoopt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from halo_ray.benchmarks.official import PoincareMLRFloat64, exp0_float64
from halo_ray.data.classes import IGNORE
from halo_ray.data.samples import Samples
from halo_ray.models.norms import FrozenBatchNorm2d
from halo_ray.models.segmenter import Segmenter

THRESHOLD, EPS = 0.05, 1e-6


class OfficialNorm(nn.Module):
    """A frozen batch norm as the official code computes it."""

    def __init__(self, norm: FrozenBatchNorm2d) -> None:
        super().__init__()
        self._norm = norm

    def forward(self, maps: Tensor) -> Tensor:
        scale = self._norm.weight * self._norm.running_var.rsqrt()
        bias = self._norm.bias - self._norm.running_mean * scale
        return maps * scale.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)


class OfficialStep:
    """One step on fixed samples.

    Args:
        model: gives backbone, decoder, reweighting and the weights of the hyperbolic head.
        parts: the source images, then the pool images.
    """

    def __init__(self, model: Segmenter, parts: list[Samples]) -> None:
        self._model, self._curvature = _with_official_norms(model), model.curvature
        mlr = model.head.classifier
        assert isinstance(mlr, nn.Module)
        points, normals = mlr.points.detach().double(), mlr.normals.detach().double()  # type: ignore[operator]
        self._mlr = PoincareMLRFloat64(points, normals, self._curvature).to(parts[0].labels.device)
        self._source, self._target = (part.images for part in parts)
        self._source_labels, self._target_labels = parts[0].labels.long(), _dense(parts[1]).long()
        head = [*model.decoder.parameters(), *model.reweighting.parameters(), *self._mlr.parameters()]
        self._optimizers = [
            geoopt.optim.RiemannianSGD(
                [p for p in weights if p.requires_grad], lr=rate, momentum=0.9, weight_decay=5e-4
            )
            for weights, rate in ((model.backbone.parameters(), 1e-4), (head, 1e-3))
        ]

    def __call__(self) -> Tensor:
        """The loss."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        source, target = self._logits(self._source), self._logits(self._target)
        p = target.softmax(1)
        loss = F.cross_entropy(source, self._source_labels, ignore_index=IGNORE)
        if (self._target_labels != IGNORE).sum() != 0:
            loss = loss + F.cross_entropy(target, self._target_labels, ignore_index=IGNORE)
        unlikely = (p < THRESHOLD).detach()
        loss = loss + (-1 * unlikely * torch.log(1 - p + EPS)).sum() / unlikely.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in self._optimizers:
            optimizer.step()
        return loss.detach()

    def _logits(self, images: Tensor | list[Tensor]) -> Tensor:
        assert isinstance(images, Tensor)
        pixels = images.permute(0, 3, 1, 2).contiguous().to(self._model.mean) / 255
        features = self._model.backbone((pixels - self._model.mean) / self._model.std)
        vectors = self._model.reweighting(self._model.decoder(features))
        logits = self._mlr(exp0_float64(vectors, self._curvature)).to(vectors)
        return F.interpolate(logits, size=images.shape[1:3], mode="bilinear", align_corners=True)


def _with_official_norms(module: Segmenter) -> Segmenter:
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, FrozenBatchNorm2d):
                setattr(parent, name, OfficialNorm(child))
    return module


def _dense(part: Samples) -> Tensor:
    """Bought pixels as a label map (N, H, W), IGNORE elsewhere."""
    height, width = part.size
    labels = torch.full((len(part.images), height, width), IGNORE, dtype=torch.uint8, device=part.points.labels.device)
    y, x = (part.points.y * (height - 1)).round().long(), (part.points.x * (width - 1)).round().long()
    labels[part.points.image, y, x] = part.points.labels
    return labels
