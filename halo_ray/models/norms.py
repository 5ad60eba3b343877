"""Batch norms whose statistics and weights are constants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FrozenBatchNorm2d(nn.Module):
    """A batch norm that is always in evaluation mode.

    There is no epsilon, as in the official HALO code: freezing a live norm adds its epsilon to the variance, so that
    the function stays the same. A live norm's state, known by its num_batches_tracked, may be loaded; it is treated so.

    Args:
        channels: of its input.
        eps: of the live norms whose states may be loaded.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, start in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), start))

    def forward(self, maps: Tensor) -> Tensor:
        """Normalized maps (N, channels, h, w)."""
        if maps.dtype == self.weight.dtype:
            # A single pass either way that keeps no maps for the gradient; a batch norm in evaluation mode keeps them.
            scale = self.weight * self.running_var.rsqrt()
            shift = self.bias - self.running_mean * scale
            return torch.addcmul(shift[:, None, None], maps, scale[:, None, None])
        return F.batch_norm(maps, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=0.0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if state_dict.pop(f"{prefix}num_batches_tracked", None) is not None and f"{prefix}running_var" in state_dict:
            state_dict[f"{prefix}running_var"] = state_dict[f"{prefix}running_var"] + self.eps
        super()._load_from_state_dict(state_dict, prefix, *args)


def freeze_batch_norms(module: nn.Module) -> nn.Module:
    """``module`` with every BatchNorm2d in it replaced by a frozen one that computes the same in evaluation mode."""
    if isinstance(module, nn.BatchNorm2d):
        frozen = FrozenBatchNorm2d(module.num_features, eps=module.eps)
        frozen.load_state_dict(module.state_dict())
        return frozen
    for name, child in module.named_children():
        setattr(module, name, freeze_batch_norms(child))
    return module
