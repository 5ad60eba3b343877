"""Weights that other programs wrote: torchvision's ResNets and the official HALO checkpoints.

Files are read without running anything in them (weights_only).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from halo_ray.errors import InputError, one_line

_OFFICIAL = ("feature_extractor", "classifier")
"""The two halves of the official network, by the names that its checkpoints give them."""

_RESNET = (
    (r"conv1\.", "embedder.embedder.convolution."),
    (r"bn1\.", "embedder.embedder.normalization."),
    (r"layer(\d)\.(\d+)\.conv(\d)\.", "encoder.stages.{0-1}.layers.{1}.layer.{2-1}.convolution."),
    (r"layer(\d)\.(\d+)\.bn(\d)\.", "encoder.stages.{0-1}.layers.{1}.layer.{2-1}.normalization."),
    (r"layer(\d)\.(\d+)\.downsample\.0\.", "encoder.stages.{0-1}.layers.{1}.shortcut.convolution."),
    (r"layer(\d)\.(\d+)\.downsample\.1\.", "encoder.stages.{0-1}.layers.{1}.shortcut.normalization."),
)
"""torchvision's names of a ResNet's modules, and those of transformers; {2-1} is the third number less one."""

_DEEPLAB = (
    (r"parallel_branches\.(\d)\.(\d)\.", "decoder.branches.{0}.{1}."),
    (r"parallel_branches\.(\d)\.depthwise_conv\.", "decoder.branches.{0}.0.0."),
    (r"parallel_branches\.(\d)\.depthwise_bn\.", "decoder.branches.{0}.0.1."),
    (r"parallel_branches\.(\d)\.pointwise_conv\.", "decoder.branches.{0}.1.0."),
    (r"parallel_branches\.(\d)\.pointwise_bn\.", "decoder.branches.{0}.1.1."),
    (r"global_branch\.(\d)\.", "decoder.context.{0-1}."),
    (r"bottleneck\.", "decoder.project."),
    (r"shortcut\.", "decoder.shortcut."),
    (r"decoder\.(\d)\.depthwise_conv\.", "decoder.refine.{0}.0.0."),
    (r"decoder\.(\d)\.depthwise_bn\.", "decoder.refine.{0}.0.1."),
    (r"decoder\.(\d)\.pointwise_conv\.", "decoder.refine.{0}.1.0."),
    (r"decoder\.(\d)\.pointwise_bn\.", "decoder.refine.{0}.1.1."),
    (r"conv_reduce\.", "decoder.embed."),
    (r"wn_mlp\.0\.", "reweighting.hidden."),
    (r"wn_mlp\.1\.", "reweighting.norm."),
    (r"wn_mlp\.3\.", "reweighting.weigh."),
    (r"conv_seg\.P_MLR$", "head.classifier.points"),
    (r"conv_seg\.A_MLR$", "head.classifier.normals"),
)
"""The same for the official classifier of DeepLabV3+."""


def load_pretrained(model: nn.Module, path: str) -> None:
    """Fills ``model``, a Segmenter, from a file: its backbone from torchvision's state dict of a ResNet (the
    classifier's ``fc`` is left out), or all of it from an official HALO checkpoint (.pth or Lightning .ckpt).

    Raises:
        InputError: the file cannot be read, is neither, or does not fit; the keys are named.
    """
    state = read_weights(path)
    lightning = state.get("state_dict")
    if isinstance(lightning, Mapping):
        state = {half: _below(lightning, f"{half}.") for half in _OFFICIAL}
    if all(isinstance(state.get(half), Mapping) and state[half] for half in _OFFICIAL):
        extractor, classifier = _below(state["feature_extractor"], "backbone."), _below(state["classifier"], "")
        names = _names(extractor, _RESNET, "backbone.model.") | _names(classifier, _DEEPLAB, "")
        hint = "an official checkpoint needs the settings that it was trained with, such as model.hfr and the class set"
        _fill(model, extractor | classifier, names, path, hint)
    elif "conv1.weight" in state and "layer1.0.conv1.weight" in state:
        weights = {key: value for key, value in state.items() if not key.startswith("fc.")}
        # Files from before PyTorch 0.4.1 lack the counters, by which a live norm's state is known.
        weights |= {
            key.replace("running_var", "num_batches_tracked"): torch.tensor(0)
            for key in weights
            if key.endswith(".running_var")
        }
        hint = "torchvision's weights need model.backbone resnet-50 or resnet-101"
        _fill(model.get_submodule("backbone"), weights, _names(weights, _RESNET, "model."), path, hint)
    else:
        raise InputError(
            f"model.pretrained: {path} holds neither a torchvision ResNet nor an official HALO checkpoint, but keys "
            f"such as {', '.join(map(str, list(state)[:3])) or 'none'}"
        )


def read_weights(path: str) -> dict[str, Any]:
    """The tree of tensors in a .safetensors file or in one that torch.save wrote.

    What a file holds beside tensors and plain values (configurations, callbacks) becomes empty dictionaries.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        if path.endswith(".safetensors"):
            return dict(load_file(path))
        try:
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except ValueError:  # a file in the format before torch 1.6
            foreign = []
        with torch.serialization.safe_globals([(_Inert, name) for name in foreign]):
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the unpickler raise anything
        raise InputError(f"model.pretrained: {path} cannot be read as weights: {why_unreadable(error)}") from error
    if not isinstance(tree, Mapping):
        raise InputError(f"model.pretrained: {path} holds a {type(tree).__name__}, no dictionary of weights")
    return {str(key): value for key, value in tree.items()}


def why_unreadable(error: Exception) -> str:
    """What is wrong with a file, without the advice for programmers that torch surrounds it with."""
    reason = one_line(error).rpartition("WeightsUnpickler error: ")[2]
    return re.split(r"\. | Check the documentation", reason)[0] or type(error).__name__


class _Inert:
    """Stands for every class that a file names: an empty dictionary, whatever the file would have it do."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return OrderedDict()


def _below(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose key starts with ``prefix``, without it and without that of data-parallel training."""
    plain = {str(key).removeprefix("module."): value for key, value in state.items()}
    return {key.removeprefix(prefix): value for key, value in plain.items() if key.startswith(prefix)}


def _names(keys: Iterable[str], rules: Iterable[tuple[str, str]], prefix: str) -> dict[str, str]:
    """Our name for each of ``keys``; one that no rule knows keeps its own, to be reported."""
    out = {key: key for key in keys}
    for key in out:
        for pattern, name in rules:
            if found := re.match(pattern, key):
                for index, number in enumerate(map(int, found.groups())):
                    name = name.replace(f"{{{index}}}", str(number)).replace(f"{{{index}-1}}", str(number - 1))
                out[key] = f"{prefix}{name}{key[found.end() :]}"
                break
    return out


def _fill(module: nn.Module, weights: dict[str, Tensor], names: dict[str, str], path: str, hint: str) -> None:
    """Loads ``weights`` into ``module`` under ``names``: every one, and all that it has but counters of batches."""
    ours, counter = module.state_dict(), ".num_batches_tracked"
    other = next((key for key, value in weights.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise InputError(f"model.pretrained: {other} in {path} is no tensor: name a file of weights")
    placed = {name: weights[key] for key, name in names.items()}
    found = (
        ("are missing", [name for name in ours if name not in placed and not name.endswith(counter)]),
        ("have no place", [key for key, name in names.items() if name not in ours and not name.endswith(counter)]),
        (
            "have another shape",
            [key for key, name in names.items() if name in ours and ours[name].shape != weights[key].shape],
        ),
    )
    problems = [
        f"{len(keys)} {what} ({', '.join(sorted(keys)[:3])}{', ...' if len(keys) > 3 else ''})"
        for what, keys in found
        if keys
    ]
    if problems:
        raise InputError(f"model.pretrained: weights of {path} do not fit: {'; '.join(problems)}; {hint}")
    module.load_state_dict(placed, strict=False)
