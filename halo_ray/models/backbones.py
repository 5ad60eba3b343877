"""Backbones from transformers, as a module that gives one feature map per stride."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from halo_ray.errors import InputError
from halo_ray.models.described import NOT_STORED, check_backbone_config
from halo_ray.models.dilation import dilate
from halo_ray.suggest import nearest


def _mit(depths: list[int], widths: list[int]) -> dict[str, Any]:
    return {"model_type": "segformer", "depths": depths, "hidden_sizes": widths}


_WIDE = [64, 128, 320, 512]

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "resnet-tiny": {
        "model_type": "resnet",
        "embedding_size": 32,
        "hidden_sizes": [32, 48, 64, 96],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
    },
    "resnet-50": {"model_type": "resnet", "depths": [3, 4, 6, 3]},
    "resnet-101": {"model_type": "resnet", "depths": [3, 4, 23, 3]},
    "mobilenet-v2": {"model_type": "mobilenet_v2"},
    "mit-b0": _mit([2, 2, 2, 2], [32, 64, 160, 256]),
    "mit-b1": _mit([2, 2, 2, 2], _WIDE),
    "mit-b2": _mit([3, 4, 6, 3], _WIDE),
    "mit-b3": _mit([3, 4, 18, 3], _WIDE),
    "mit-b4": _mit([3, 8, 27, 3], _WIDE),
    "mit-b5": _mit([3, 6, 40, 3], _WIDE),
}
"""Architectures by name: transformers configurations, which start from random weights."""


WEIGHT_FILES = (".pth", ".pt", ".ckpt", ".safetensors")
"""Endings of files of weights."""


class Backbone(nn.Module):
    """A transformers model that gives feature maps; the last one of each resolution is kept.

    Attributes:
        config: the transformers configuration, enough to build the architecture again.
        strides: image pixels per feature, rising.
        channels: of each feature map.
    """

    def __init__(self, model: nn.Module, *, frozen: bool) -> None:
        super().__init__()
        self.model = model
        self.config = _stored(model.config)
        self.frozen = frozen
        self.requires_grad_(not frozen)
        probe = 64
        with torch.no_grad():
            states = self.eval()._maps(torch.zeros(1, 3, probe, probe))
        last = {int(state.shape[-1]): index for index, state in enumerate(states)}
        self._kept = [last[width] for width in sorted(last, reverse=True)]
        self.strides = [probe // int(states[index].shape[-1]) for index in self._kept]
        self.channels = [int(states[index].shape[1]) for index in self._kept]
        self.train()

    def train(self, mode: bool = True) -> Backbone:
        """A frozen backbone stays in evaluation mode, so that its batch norms keep their statistics."""
        super().train(mode and not self.frozen)
        return self

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Feature maps (N, channels[i], H/strides[i], W/strides[i]) of normalized images (N, 3, H, W).

        Raises:
            InputError: the images are smaller than the largest stride.
        """
        rows, cols = pixels.shape[-2:]
        if min(rows, cols) < self.strides[-1]:
            raise InputError(
                f"images of {cols}x{rows} pixels are smaller than the backbone's output stride {self.strides[-1]}: "
                "raise data.width and data.height"
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            states = self._maps(pixels)
        return [states[index] for index in self._kept]

    def _maps(self, pixels: Tensor) -> tuple[Tensor, ...]:
        said = self.model(pixels, output_hidden_states=True, return_dict=True)
        maps: tuple[Tensor, ...] = said.feature_maps if "feature_maps" in said else said.hidden_states
        return maps


def build_backbone(
    name: str,
    *,
    weights: str | None = None,
    frozen: bool = False,
    output_stride: int | None = None,
    config: dict[str, Any] | None = None,
) -> Backbone:
    """A backbone of the architecture ``name``.

    Args:
        name: a key of ARCHITECTURES, a folder in the transformers format, or a hub id.
        weights: folder in the transformers format or hub id; None leaves them random.
        frozen: never trained, always in evaluation mode.
        output_stride: image pixels per feature of the coarsest map, by dilation; None: as the architecture has it.
        config: the transformers configuration of a Backbone, instead of that of ``name``.

    Raises:
        InputError: nothing of that name can be loaded, its weights do not fit (the keys are named), it gives no feature
            pyramid, it has no dilated form, or it cannot be built again from its configuration alone.
    """
    # transformers takes seconds to import; a process that builds no model should not wait for it.
    from transformers import MODEL_FOR_BACKBONE_MAPPING, MODEL_MAPPING
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    settings = _architecture(name, config)
    check_backbone_config(_stored(settings), f"model.backbone {name}: config")
    if settings._attn_implementation not in (None, "eager", "sdpa"):
        raise InputError(f"model.backbone {name}: config._attn_implementation names a kernel elsewhere: remove it")
    if settings.model_type == "mobilenet_v2" and output_stride is not None:
        settings.output_stride = output_stride
    if settings.sub_configs:  # which may name models that are looked up
        raise InputError(f"model.backbone {name!r} is made of several models ({settings.model_type}): name a backbone")
    try:
        if type(settings) in MODEL_FOR_BACKBONE_MAPPING:
            kind = MODEL_FOR_BACKBONE_MAPPING[type(settings)]
            stages = [stage for stage in settings.stage_names if stage.startswith("stage")]
            settings.set_output_features_output_indices(out_features=stages, out_indices=None)
        elif type(settings) in MODEL_MAPPING:
            kind = MODEL_MAPPING[type(settings)]
        else:
            raise InputError(f"model.backbone {name!r} is no image model ({settings.model_type}): name a backbone")
        model = _load(kind, settings, weights) if weights else kind(settings)
        if output_stride is not None and settings.model_type != "mobilenet_v2":
            dilate(model, output_stride)
        backbone = Backbone(model, frozen=frozen)
    except (AttributeError, TypeError, ArithmeticError, LookupError, ValueError, RuntimeError, ImportError) as error:
        raise InputError(
            f"model.backbone {name!r} gives no feature maps ({_first_line(error)}): name a backbone for images"
        ) from error
    if len(backbone.strides) < 2 or backbone.strides[0] < 1:
        raise InputError(
            f"model.backbone {name!r} gives maps of stride {backbone.strides[0]} alone, no pyramid: name another"
        )
    if output_stride is not None and backbone.strides[-1] != output_stride:
        raise InputError(f"model.output_stride {output_stride}: {name} gives {backbone.strides[-1]} at best")
    return backbone


def _stored(settings: Any) -> dict[str, Any]:
    return {key: value for key, value in settings.to_dict().items() if key not in NOT_STORED}


def architecture(name: str) -> dict[str, Any]:
    """The transformers configuration of a name as build_backbone takes it; raises InputError as that does."""
    found: dict[str, Any] = _architecture(name, None).to_dict()
    return found


def locate(key: str, name: str, known: Collection[str] = ()) -> str:
    """``name`` as every process can use it: a file or folder by its absolute path; a hub id or ``known`` as it is.

    Raises:
        InputError: nothing lies at ``name``, and it is no hub id either; ``key`` is the setting that it names.
    """
    path = Path(name).expanduser()
    if name in known:
        return name
    if name and path.exists():
        return str(path.absolute())
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) or path.suffix in WEIGHT_FILES:
        hint = f"; {nearest(name, known)}" if known else ""
        raise InputError(f"{key}: nothing lies at {name!r}: give a path, or a hub id of the form owner/name{hint}")
    return name


def _architecture(name: str, config: dict[str, Any] | None) -> Any:
    from transformers import AutoConfig

    config = ARCHITECTURES.get(name) if config is None else config
    try:
        if config is not None:
            return AutoConfig.for_model(**config)
        name = locate("model.backbone", name, ARCHITECTURES)
        return AutoConfig.from_pretrained(name, local_files_only=Path(name).is_dir(), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model.backbone {name!r} is no folder in the transformers format, and no hub id that can be reached"
        ) from error


def _load(kind: Any, settings: Any, source: str) -> nn.Module:
    """The model ``kind`` with the weights of ``source``, all of them."""
    try:
        model, found = kind.from_pretrained(
            source,
            config=settings,
            local_files_only=Path(source).is_dir(),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"model.pretrained: no weights can be read from {source!r}: {_first_line(error)}") from error
    wrong = [entry[0] for entry in found["mismatched_keys"]]
    # The norms that transformers adds where a pyramid is taken from a classifier are new in every checkpoint.
    new = "hidden_states_norms.", "num_batches_tracked"
    wrong += [key for key in found["missing_keys"] if not key.startswith(new[0]) and not key.endswith(new[1])]
    if wrong:
        raise InputError(
            f"model.pretrained: {source!r} does not fit model.backbone: {len(wrong)} weights are missing or of another "
            f"shape, such as {', '.join(sorted(wrong)[:3])}"
        )
    loaded: nn.Module = model
    return loaded


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
