"""Acquisition functions of a user's own, found by their dotted path."""

import os
import signal
import time

from torch import Tensor

from halo_ray.acquisition.maps import Maps
from halo_ray.acquisition.scores import halo

SECONDS = 0.7


def slow_halo(maps: Maps) -> Tensor:
    """HALO, slowly enough to be killed half-way."""
    time.sleep(SECONDS)
    return halo(maps)


def broken(maps: Maps) -> Tensor:
    return maps.entropy * (1 / 0)


def half(maps: Maps) -> Tensor:
    """Entropy in the lower half of the image, NaN above."""
    score = maps.entropy.clone()
    score[:, : score.shape[1] // 2] = float("nan")
    return score


def deadly(maps: Maps) -> Tensor:
    """Kills the process that asks it."""
    os.kill(os.getpid(), signal.SIGKILL)
    return maps.entropy
