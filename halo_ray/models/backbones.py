"""Backbones from transformers, as a module that gives one feature map per stride."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from halo_ray.errors import InputError
from halo_ray.suggest import nearest

SCRATCH: dict[str, dict[str, Any]] = {
    "resnet-tiny": {
        "model_type": "resnet",
        "embedding_size": 32,
        "hidden_sizes": [32, 48, 64, 96],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
    },
}
"""Small architectures that start from random weights: transformers configurations by name."""


class Backbone(nn.Module):
    """A transformers model whose hidden states are feature maps; the last one of each resolution is kept.

    Attributes:
        config: the transformers configuration, enough to build the architecture again.
        strides: image pixels per feature, rising.
        channels: of each feature map.
    """

    def __init__(self, model: nn.Module, *, frozen: bool) -> None:
        super().__init__()
        self.model = model
        self.config: dict[str, Any] = model.config.to_dict()  # type: ignore[union-attr,operator]
        self.frozen = frozen
        self.requires_grad_(not frozen)
        probe = 64
        maps = self.eval()(torch.zeros(1, 3, probe, probe))
        if not frozen:
            # What lies behind the last feature map is never trained, and would make data-parallel training wait.
            parameters = list(self.parameters())
            gradients = torch.autograd.grad(sum(m.sum() for m in maps), parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.requires_grad_(gradient is not None)
        self.strides = [probe // feature.shape[-1] for feature in maps]
        self.channels = [int(feature.shape[1]) for feature in maps]
        self.train()

    def train(self, mode: bool = True) -> Backbone:
        """A frozen backbone stays in evaluation mode, so that its batch norms keep their statistics."""
        super().train(mode and not self.frozen)
        return self

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Feature maps (N, channels[i], H/strides[i], W/strides[i]) of normalized images (N, 3, H, W)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            states = self.model(pixels, output_hidden_states=True, return_dict=True).hidden_states
        by_size: dict[int, Tensor] = {int(state.shape[-1]): state for state in states}
        return [by_size[width] for width in sorted(by_size, reverse=True)]


def locate_backbone(name: str) -> str:
    """``name`` as every process can use it: a folder by its absolute path, anything else as it is.

    Raises:
        InputError: ``name`` is written as a path, but no folder is there.
    """
    if name in SCRATCH:
        return name
    folder = Path(name)
    if folder.is_dir():
        return str(folder.absolute())
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"model.backbone: no folder {name}: give a folder in the transformers format, or a hub id")
    return name


def build_backbone(name: str, *, frozen: bool, config: dict[str, Any] | None = None) -> Backbone:
    """A backbone with its pretrained weights, or without them where ``config`` gives the architecture.

    Args:
        name: a key of SCRATCH, a folder in the transformers format, or a hub id.
        config: a transformers configuration; weights are then left random, for a checkpoint to fill.

    Raises:
        InputError: nothing of that name can be loaded, or it gives no feature maps.
    """
    # transformers takes seconds to import; a process that builds no model should not pay for it.
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    config = config or SCRATCH.get(name)
    try:
        if config is not None:
            settings = {key: value for key, value in config.items() if key != "model_type"}
            model = AutoModel.from_config(AutoConfig.for_model(config["model_type"], **settings))
        else:
            model = AutoModel.from_pretrained(name, local_files_only=Path(name).is_dir())
    except (OSError, ValueError) as error:
        hint = nearest(name, SCRATCH)
        raise InputError(f"model.backbone {name!r} is no folder or hub id with a model ({hint})") from error
    try:
        return Backbone(model, frozen=frozen)
    except (AttributeError, TypeError, IndexError) as error:
        raise InputError(f"model.backbone {name!r} gives no feature maps: name a convolutional backbone") from error
