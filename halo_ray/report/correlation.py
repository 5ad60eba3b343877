"""The paper's claim (Franco et al. 2024): the radius of a class tells how scarce it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from halo_ray.results import Row

FEWEST = 3
"""Classes that a correlation needs to say anything."""


@dataclass(frozen=True)
class RadiusCorrelation:
    """Of the classes that are labelled in the validation split; correlations are None where nothing varies."""

    names: list[str]
    shares: list[float]
    """Of the labelled pixels."""
    radii: list[float]
    """Mean over the vectors of the class."""
    with_share: float | None
    """Pearson's correlation of radius and share; the paper reports −0.899."""
    with_share_ranks: float | None
    """Spearman's of the same, which does not depend on how shares are spread."""
    with_accuracy: float | None
    """Pearson's correlation of radius and the class's accuracy."""


def radius_correlation(row: Row) -> RadiusCorrelation | None:
    """Of the model of a round; None where too few classes are known, or an earlier version recorded it."""
    radii, shares = row.get("class_radius"), row.get("class_share")
    if radii is None or shares is None:
        return None
    names = [name for name, radius in radii.items() if radius is not None and shares[name]]
    if len(names) < FEWEST:
        return None
    r, share = [radii[name] for name in names], [shares[name] for name in names]
    accuracy = [row["class_accuracy"][name] for name in names]
    return RadiusCorrelation(
        names, share, r, pearson(r, share), pearson(stats.rankdata(r), stats.rankdata(share)), pearson(r, accuracy)
    )


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Correlation of two lists of numbers; None where one of them is constant."""
    a, b = np.asarray(x, float), np.asarray(y, float)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
