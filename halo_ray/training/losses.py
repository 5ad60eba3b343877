"""Training losses as sums and counts, so that every mean is over the pixels of all workers and parts of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from halo_ray.bounds import Range, check_ranges
from halo_ray.data.classes import IGNORE
from halo_ray.data.samples import Samples
from halo_ray.errors import InputError
from halo_ray.models.sampling import at_places, upsample

Sum = tuple[Tensor, Tensor]
"""A loss summed over pixels, and their number."""

CONSISTENCY_EPS = 1e-6
NEGATIVE_EPS = 1e-6
"""Added within logarithms, as in the official implementation."""

Weight = Annotated[float, Range(0, 1e6)]


@dataclass(frozen=True)
class LossConfig:
    """Weights of the parts of the training loss; a part of weight 0 is not computed."""

    source: Weight = 1.0
    """Cross-entropy on source pixels."""
    target: Weight = 1.0
    """Cross-entropy on bought pixels (on all labelled pool pixels under fully_supervised)."""
    negative: Weight = 0.0
    """Negative learning on all pixels of pool images (official: 1); unlabelled ones are then trained on too."""
    negative_threshold: Annotated[float, Range(1e-9, 1)] = 0.05
    """Negative learning pushes classes down that are less probable than this."""
    consistency: Weight = 0.0
    """Local consistency at the class borders of source images (official: 0, RIPU: 0.1)."""
    consistency_distance: Literal["l1", "kl"] = "l1"
    """How far a pixel's prediction is from the mean of its 3x3 window."""

    def __post_init__(self) -> None:
        check_ranges(self, "training.losses.")
        if not any((self.source, self.target, self.negative, self.consistency)):
            raise InputError("training.losses are all 0: give one of them a weight")


def dense_cross_entropy(logits: Tensor, labels: Tensor) -> Sum:
    """Cross-entropy summed over labelled pixels, and their number.

    Args:
        logits: (N, C, h, w), upsampled here to the labels.
        labels: (N, H, W) classes, IGNORE where void.
    """
    return _cross_entropy(upsample(logits, (labels.shape[1], labels.shape[2])), labels)


def point_cross_entropy(logits: Tensor, image: Tensor, y: Tensor, x: Tensor, labels: Tensor) -> Sum:
    """The same over single labelled places; each is read where it lies, whatever the size of the logits.

    Args:
        logits: (N, C, h, w).
        image, y, x: (P,) places as in at_places.
        labels: (P,) classes, IGNORE where the oracle could not tell.
    """
    return _cross_entropy(at_places(logits, image, y, x), labels)


def negative_learning(logits: Tensor, threshold: float) -> Sum:
    """−log(1 − p) summed over the classes of all pixels with p < ``threshold``, and their number.

    Xie et al. 2022 (RIPU).

    Args:
        logits: (N, C, H, W).
    """
    p = logits.softmax(1)
    unlikely = p.detach() < threshold
    said = torch.where(unlikely, -(1 - p + NEGATIVE_EPS).log(), 0)
    return said.sum(), unlikely.sum()


def local_consistency(logits: Tensor, labels: Tensor, distance: Literal["l1", "kl"]) -> Sum:
    """Distance of the prediction from the mean of its 3x3 window, summed over class borders, and their number.

    Xie et al. 2022 (RIPU). Windows are continued past the image's edge by its last pixels.

    Args:
        logits: (N, C, H, W).
        labels: (N, H, W) classes, IGNORE where void.
    """
    at = class_borders(labels)
    p = logits.softmax(1)
    mean = F.avg_pool2d(F.pad(p, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    if distance == "l1":
        apart = (p - mean).abs().sum(1)
    else:
        apart = (p * (p / (mean + CONSISTENCY_EPS) + CONSISTENCY_EPS).log()).sum(1)
    return apart[at].sum(), at.sum()


def class_borders(labels: Tensor) -> Tensor:
    """Bool (N, H, W): labelled pixels at which the 8-neighbour Laplacian of the class numbers is not 0.

    Beyond the image stand zeros and void counts as 255, as in the official implementation; neighbours whose
    differences cancel are no border there either.
    """
    numbers = labels.float()[:, None]
    around = 9 * F.avg_pool2d(numbers, 3, stride=1, padding=1, divisor_override=9)
    return ((9 * numbers - around).round() != 0)[:, 0] & (labels != IGNORE)


def _alone(own: Tensor) -> Tensor:
    return own


class Losses:
    """The weighted loss of a training step, of which a process may hold a part, and compute it in several.

    Args:
        workers: how many processes there are.
        over_workers: gives the sum of a tensor over all of them.
    """

    def __init__(self, config: LossConfig, workers: int = 1, over_workers: Callable[[Tensor], Tensor] = _alone) -> None:
        self._config, self._workers, self._over_workers = config, workers, over_workers
        weights = {name: getattr(config, name) for name in ("source", "target", "negative", "consistency")}
        self._weights = {name: weight for name, weight in weights.items() if weight}

    def weighted(self, means: dict[str, float]) -> float:
        """The loss that the means of its terms make."""
        return float(sum(weight * means[name] for name, weight in self._weights.items()))

    def counts(self, parts: Iterable[Samples]) -> dict[str, Tensor]:
        """Pixels that the terms of a whole step are means over, of all workers, as far as the labels tell."""
        own = [torch.stack(self._label_counts(part)) for part in parts]
        return dict(zip(("source", "target", "consistency"), self._over_workers(torch.stack(own).sum(0)), strict=True))

    def __call__(
        self, logits: Sequence[Tensor], parts: Sequence[Samples], counts: dict[str, Tensor], of: int = 1
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Part of a step's loss: its gradient, averaged over workers and summed over parts, is that of the whole.

        How many pixels negative learning sees is only known from the predictions: its mean is over those of the parts
        that all workers give at the same time.

        Args:
            logits: (N, C, h, w) of each of ``parts``.
            counts: of the whole step.
            of: parts that the step is computed in; negative learning is the average of their means.

        Returns:
            The loss; and its terms without their weights, whose sums over workers and parts are the means.
        """
        terms = [self._terms(said, part) for said, part in zip(logits, parts, strict=True)]
        means = {}
        for name in self._weights:
            total = torch.stack([term[name][0] for term in terms]).sum()
            count = counts.get(name)
            if count is None:
                count = of * self._over_workers(torch.stack([term[name][1] for term in terms]).sum())
            means[name] = total / count.clamp_min(1).to(total.dtype)
        loss = torch.stack([self._weights[name] * mean for name, mean in means.items()]).sum() * self._workers
        return loss, {name: mean.detach() for name, mean in means.items()}

    def _label_counts(self, part: Samples) -> list[Tensor]:
        labelled = (part.labels != IGNORE).flatten(1).sum(1)
        bought = (part.points.labels != IGNORE).sum() + labelled[part.sources :].sum()
        borders = class_borders(part.labels[: part.sources]).sum() if "consistency" in self._weights else bought
        return [labelled[: part.sources].sum(), bought, borders]

    def _terms(self, logits: Tensor, part: Samples) -> dict[str, Sum]:
        """The terms that have a weight; each 0, and connected to ``logits``, where the part has no pixels of it."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        config, (source, target) = self._config, (logits[: part.sources], logits[part.sources :])
        labels, bought = part.labels[: part.sources], part.labels[part.sources :]
        source = upsample(source, part.size) if len(source) else source
        nothing = logits.sum() * 0, torch.zeros((), dtype=torch.int64, device=logits.device)
        found = dict.fromkeys(self._weights, nothing)
        if "source" in found and len(source):
            found["source"] = dense_cross_entropy(source, labels)
        if "consistency" in found and len(source):
            found["consistency"] = local_consistency(source, labels, config.consistency_distance)
        if len(target) and ("negative" in found or len(bought)):
            target = upsample(target, part.size)
        if "target" in found and len(target):
            # Points are read from the maps as they came; dense labels only there are under full supervision.
            points = point_cross_entropy(logits, *part.points)
            found["target"] = summed([points, dense_cross_entropy(target, bought)]) if len(bought) else points
        if "negative" in found and len(target):
            found["negative"] = negative_learning(target, config.negative_threshold)
        return found


def summed(parts: Sequence[Sum]) -> Sum:
    """The loss and the number of pixels of several parts together."""
    total, count = (torch.stack(values).sum() for values in zip(*parts, strict=True))
    return total, count


def _cross_entropy(logits: Tensor, labels: Tensor) -> Sum:
    return F.cross_entropy(logits, labels.long(), ignore_index=IGNORE, reduction="sum"), (labels != IGNORE).sum()
