"""Steps that must not be taken: those whose gradient is no number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BadSteps:
    """The steps that were left out; all workers see the same gradient, so they agree.

    Args:
        model: its live batch norms learn nothing from a step that is left out.
        steps: bad ones among those that were taken before.
        step: how many those were.
    """

    def __init__(self, model: nn.Module, steps: Sequence[int] = (), step: int = 0) -> None:
        self.steps, self.in_row = list(steps), 0
        while step - self.in_row - 1 in self.steps:
            self.in_row += 1
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
        self._live: list[Tensor] = [statistic for norm in norms for statistic in norm.buffers(recurse=False)]
        self._before = [statistic.clone() for statistic in self._live]

    def begin(self) -> None:
        """Called before each step."""
        for kept, statistic in zip(self._before, self._live, strict=True):
            kept.copy_(statistic)

    def is_good(self, norm: Tensor, step: int) -> bool:
        """Whether the step may be taken, by the norm of its gradient."""
        if torch.isfinite(norm):
            self.in_row = 0
            return True
        for kept, statistic in zip(self._before, self._live, strict=True):
            statistic.copy_(kept)
        self.steps.append(step)
        self.in_row += 1
        return False

    def before(self, step: int) -> list[int]:
        """Those among the first ``step`` steps."""
        return [bad for bad in self.steps if bad < step]
