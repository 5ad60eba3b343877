"""Parts of the selection benchmark that run in the coordinator's process; nothing here needs torch."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

import numpy as np

from halo_ray.acquisition.threshold import Candidates
from halo_ray.coordinator import Coordinator


class MeasuredCoordinator(Coordinator):
    """A coordinator that tells what it takes."""

    def usage(self) -> tuple[float, int]:
        """CPU seconds of its process since the last call, and the most memory it ever held resident, in bytes."""
        before, self._cpu = getattr(self, "_cpu", 0.0), time.process_time()
        return self._cpu - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True)
class Simulated:
    """Candidates made up anew whenever they are asked for; a part is (number, rows from, rows to)."""

    per_image: int

    def __call__(self, part: tuple[int, int, int]) -> Candidates:
        number, first, last = part
        random = np.random.default_rng(number)
        scores = random.random((last - first) * self.per_image, np.float32)
        return Candidates(scores, np.repeat(np.arange(first, last, dtype=np.uint32), self.per_image))
