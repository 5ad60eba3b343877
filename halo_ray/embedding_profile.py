"""How a model's embedding lies on a split: the radius of each class, and histograms of radius and entropy.

All are whole numbers, which add up to the same over images in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from halo_ray.acquisition.maps import prediction_entropy
from halo_ray.geometry import max_radius
from halo_ray.geometry_health import nearest_labels, radii
from halo_ray.models.segmenter import Segmentation

Counts = npt.NDArray[np.int64]

RADIUS_BINS, ENTROPY_BINS = 240, 50

UNIT = 2.0**-20
"""In which radii are added up: a billion vectors of any radius that a ball admits still fit into 64 bits."""

EUCLIDEAN_TOP = 60.0
"""Where the histogram of the norms of a Euclidean embedding ends."""


@dataclass(frozen=True)
class Profile:
    """Counts of vectors at the decoder's stride; the class of one is the label nearest to it."""

    vectors: Counts
    """(C,) vectors of each class."""
    units: Counts
    """(C,) their radii, added up in units of UNIT."""
    radius: Counts
    """(RADIUS_BINS,) all vectors by radius, equal bins from 0 to radius_top; the last has those above too."""
    entropy: Counts
    """(ENTROPY_BINS,) all vectors by prediction entropy, equal bins from 0 to 1."""

    @classmethod
    def of(cls, said: Segmentation, label: npt.NDArray[np.uint8], curvature: float) -> Profile:
        """Of one image.

        Args:
            said: of the image, (1, C, h, w) and (1, D, h, w).
            label: (H, W) classes, IGNORE where there is none.
            curvature: c > 0 of the ball; 0 for Euclidean vectors, whose radius is their norm.
        """
        classes = said.logits.shape[1]
        r = radii(said.embedding, curvature).float()
        near = nearest_labels(torch.from_numpy(label)[None].to(r.device), r)
        known = near < classes
        mine, of_class = r[known], near[known].long()
        units = torch.zeros(classes, dtype=torch.int64, device=r.device)
        units.index_add_(0, of_class, (mine.double() / UNIT).round().long())
        return cls(
            _counted(of_class, classes),
            units.cpu().numpy(),
            _counted(_bins(r / radius_top(curvature), RADIUS_BINS), RADIUS_BINS),
            _counted(_bins(prediction_entropy(said.logits.float()), ENTROPY_BINS), ENTROPY_BINS),
        )

    @property
    def flat(self) -> Counts:
        """(size_of(C),) all counts after each other."""
        return np.concatenate([self.vectors, self.units, self.radius, self.entropy])

    @classmethod
    def from_flat(cls, counts: Counts, classes: int) -> Profile:
        """Of counts as ``flat`` gives them, maybe of several images and added up."""
        ends = np.cumsum([classes, classes, RADIUS_BINS])
        return cls(*np.split(counts, ends))

    @staticmethod
    def size_of(classes: int) -> int:
        return 2 * classes + RADIUS_BINS + ENTROPY_BINS

    @property
    def class_radius(self) -> list[float | None]:
        """(C,) mean radius of the vectors of each class; None where there is none."""
        return [
            float(total * UNIT / n) if n else None
            for n, total in zip(self.vectors.tolist(), self.units.tolist(), strict=True)
        ]

    def histograms(self, curvature: float) -> dict[str, Any]:
        """JSON-able: ``radius`` and ``entropy``, the counts of equal bins, and ``radius_top``, where radii end."""
        return {
            "radius": self.radius.tolist(),
            "radius_top": radius_top(curvature),
            "entropy": self.entropy.tolist(),
        }


def radius_top(curvature: float) -> float:
    """Where the histogram of radii ends: at the largest that the ball admits."""
    return max_radius(curvature, torch.float32) if curvature else EUCLIDEAN_TOP


def _bins(share: Tensor, bins: int) -> Tensor:
    """Which of the equal bins of [0, 1] each value is in, the last for what is above; int64, flat."""
    return (share.flatten() * bins).long().clamp(0, bins - 1)


def _counted(numbers: Tensor, most: int) -> Counts:
    return numbers.bincount(minlength=most).cpu().numpy()
