"""Guards around a network's description that came with a checkpoint: it says what to build, and nothing else.

A checkpoint may have been written by anybody. Its description is a transformers configuration, and some keys of those
make transformers fetch weights or run code from a hub; others make it allocate whatever they say.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from halo_ray.errors import InputError

NOT_STORED = ("_name_or_path", "auto_map")
"""Keys that say where a configuration came from; what is built does not depend on them."""

_PLACES = {
    "attn_implementation",
    "auto_map",
    "backbone",
    "backbone_checkpoint",
    "backbone_kwargs",
    "cache_dir",
    "code_revision",
    "experts_implementation",
    "kernel_config",
    "name_or_path",
    "pretrained",
    "pretrained_backbone",
    "pretrained_model_name_or_path",
    "quantization_config",
    "repo_id",
    "revision",
    "trust_remote_code",
    "use_kernels",
    "use_pretrained_backbone",
    "use_timm_backbone",
}
"""Keys by which transformers, or a library below it, looks something up."""

_EMPTY: tuple[Any, ...] = (None, False, "", {}, [])

_LARGEST_NUMBER = 2**16
"""Largest integer, length and sum of a list in a configuration; lists of so many numbers are made from them."""

_SMALL_TENSOR = 2**26
"""Elements that a tensor may have whatever the weights are: the maps of a small image, or a table of positions."""

_STEPS = 30
"""Operations for one weight while a network is built and tried; no model of transformers takes more than 11."""

_FEW_WEIGHTS = 100
"""So many more may every network have."""

_offline = threading.RLock()


@contextmanager
def offline() -> Iterator[None]:
    """Let every request to a hub fail in this process while the body runs.

    transformers, timm and the kernels library all ask through huggingface_hub, which reads this switch anew each time.
    """
    from huggingface_hub import constants

    with _offline:
        before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before


def check_backbone_config(config: Any, key: str) -> None:
    """Check that a transformers configuration is enough to build its model, and can be built from at all.

    Args:
        key: what errors call the configuration.

    Raises:
        InputError: it is none, a key in it names a place, or a number in it is too large for any image model.
    """
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise InputError(f"{key} is no configuration of transformers: it needs a model_type")
    _check(config, key)


def _check(value: Any, key: str) -> None:
    if isinstance(value, dict):
        for name, below in ((str(each), below) for each, below in value.items()):
            if name == "model_type" and str(below).startswith("timm"):
                raise InputError(f"{key}.{name} is {below!r}: timm looks its models up by name; name another")
            if below not in _EMPTY and (name in _PLACES or name.startswith("_") or _is_part_of_class(name)):
                raise InputError(
                    f"{key}.{name} is set, but a network must be built from its configuration alone, with nothing "
                    "looked up elsewhere: remove it"
                )
            _check(below, f"{key}.{name}")
    elif isinstance(value, list):
        for below in value:
            _check(below, key)
    numbers = [len(value), *filter(_is_integer, value)] if isinstance(value, list) else filter(_is_integer, [value])
    if sum(map(abs, numbers)) > _LARGEST_NUMBER:
        raise InputError(f"{key} is too large: no number, length or sum may be above {_LARGEST_NUMBER}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int)


def _is_part_of_class(name: str) -> bool:
    """Whether a key would replace a method of every configuration, or its tables of other names for keys."""
    from transformers import PreTrainedConfig

    found = getattr(PreTrainedConfig, name, None)
    return callable(found) or isinstance(found, (dict, tuple))


class SizedLike(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Ends a computation that takes more than a network of these weights does; used where tensors have no data."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._largest = max(_SMALL_TENSOR, *(weight.numel() for weight in weights.values()), 0)
        self._left = _STEPS * (len(weights) + _FEW_WEIGHTS)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self._left -= 1
        if self._left < 0 or any(
            isinstance(tensor, Tensor) and tensor.numel() > self._largest for tensor in tree_leaves(made)
        ):
            raise InputError("it describes a larger network than its weights are of")
        return made


@contextmanager
def without_data(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Build networks of at most the size of ``weights`` in the body, without allocating theirs."""
    with torch.device("meta"), SizedLike(weights):
        yield


def check_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raises InputError where ``weights`` lack some of a network, have others, or some of another shape."""
    own = {name: value.shape for name, value in model.state_dict().items()}
    found = {name: value.shape for name, value in weights.items()}
    wrong = sorted(name for name in own.keys() | found.keys() if own.get(name) != found.get(name))
    if wrong:
        raise InputError(
            f"{len(wrong)} weights are missing, without a place or of another shape, such as {', '.join(wrong[:3])}"
        )
