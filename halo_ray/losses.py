"""Training losses as sums and counts, so that a mean can be taken over the pixels of all workers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from halo_ray.data.classes import IGNORE
from halo_ray.models.sampling import at_places, upsample


def dense_cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over labelled pixels, and their number.

    Args:
        logits: (N, C, h, w), upsampled here to the labels.
        labels: (N, H, W) classes, IGNORE where void.
    """
    full = upsample(logits, (labels.shape[1], labels.shape[2]))
    return _cross_entropy(full, labels)


def point_cross_entropy(logits: Tensor, image: Tensor, y: Tensor, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The same over single labelled places; each is read where it lies, whatever the size of the logits.

    Args:
        logits: (N, C, h, w).
        image, y, x: (P,) places as in at_places.
        labels: (P,) classes, IGNORE where the oracle could not tell.
    """
    return _cross_entropy(at_places(logits, image, y, x), labels)


def summed(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The loss and the number of pixels of the parts of a batch that went through the network on their own."""
    total, count = (torch.stack(values).sum() for values in zip(*parts, strict=True))
    return total, count


def mean_over_workers(total: Tensor, count: Tensor) -> Tensor:
    """total/count over the batches of all workers, in gradient too, given that DDP averages gradients over workers.

    Zero, with zero gradient, where no worker has any pixel.
    """
    workers = 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        workers = torch.distributed.get_world_size()
        count = count.clone()
        torch.distributed.all_reduce(count)
    return total * workers / count.clamp_min(1)


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    count = (labels != IGNORE).sum().to(logits.dtype)
    return F.cross_entropy(logits, labels.long(), ignore_index=IGNORE, reduction="sum"), count
