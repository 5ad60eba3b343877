"""Names of the results that experiments share: the hash of all that a stage depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from halo_ray.annotations.ledger import Ledger
from halo_ray.cluster import device_of
from halo_ray.config import Config, identity
from halo_ray.data.classes import ClassSet
from halo_ray.data.listing import MANIFEST
from halo_ray.data.manifest import SPLITS, Splits
from halo_ray.models.backbones import ARCHITECTURES
from halo_ray.models.build import ModelConfig

if TYPE_CHECKING:
    from halo_ray.context import Context

FORMAT = 3
"""Of the results. Whoever changes what a stage computes or how it is stored raises it: older ones are left alone."""

_BACKBONE = (
    "data.",
    "model.backbone",
    "model.pretrained",
    "model.output_stride",
    "model.frozen_b",
    "model.pixel_",
)
"""Beginnings of the identity keys that the features of a frozen backbone depend on."""

_NOT_PRETRAINING = (
    "acquisition.",
    "annotation.",
    "training.round_",
    "training.between_rounds",
    "training.control",
    "training.protocol",
)
_NOT_TWIN = ("acquisition.", "annotation.", "evaluation.")
_ONE_BUDGET = ("acquisition.function", "acquisition.budget", "acquisition.rounds")


def _all_but(*beginnings: str) -> Callable[[str, Config], bool]:
    return lambda key, config: not key.startswith(beginnings)


def _features(key: str, config: Config) -> bool:
    random_weights = config.model.backbone in ARCHITECTURES and not config.model.pretrained
    return key.startswith(_BACKBONE) or (key == "seed" and random_weights)


_DEPENDS: dict[str, Callable[[str, Config], bool]] = {
    "inspection": lambda key, config: key.startswith(("data.", "training.source_sampling.method")),
    "features": _features,
    "pretrain": _all_but(*_NOT_PRETRAINING, "evaluation."),
    "evaluate": _all_but(*_NOT_PRETRAINING),
    "score": _all_but(*(key for key in _NOT_PRETRAINING if key != "acquisition."), *_ONE_BUDGET, "evaluation."),
    "control": lambda key, config: key == "acquisition.rounds" or not key.startswith(_NOT_TWIN),
}
"""Whether a kind of stage, the last part of its name, depends on an identity key."""


def pretraining_settings(config: Config) -> dict[str, Any]:
    """The identity keys that the pretrained model depends on, with their values."""
    depends = _DEPENDS["pretrain"]
    return {key: value for key, value in identity(config).items() if depends(key, config)}


def stage_entry(context: Context, name: str) -> str:
    """Where the store keeps a stage: its name and the hash of all that its result depends on."""
    config, kind = context.config, kind_of(name)
    contents: dict[str, Any] = {"device": device_of(config.execution), "weights": weights(context.model)}
    if kind != "features" and config.data.known_labels:
        contents["known"] = Ledger(context.storage).digest(0)
    if kind == "score" and context.never is not None:
        contents["never"] = mask_digest(context.never)
    return _entry(name, config, context.splits, context.classes, contents)


def weights(model: ModelConfig) -> list[list[tuple[str, str]]]:
    """Names and digests of the files that a network begins with; ``model`` names them by path."""
    return [list(_files(each)) for each in (model.backbone, model.pretrained) if each and each not in ARCHITECTURES]


def mask_digest(mask: npt.NDArray[np.bool_]) -> list[Any]:
    """Names the content of a mask (H, W)."""
    return [list(mask.shape), _sha256(mask.tobytes())]


def inspection_entry(config: Config, listed: Splits, classes: ClassSet) -> str:
    """The same of the inspection, which comes before the stages; ``listed`` are the files that it looks at."""
    return _entry("inspection", config, listed, classes, {})


def kind_of(name: str) -> str:
    """The last part of a stage's name."""
    return name.rpartition("/")[2]


def _entry(name: str, config: Config, splits: Splits, classes: ClassSet, contents: dict[str, Any]) -> str:
    depends = _DEPENDS[kind_of(name)]
    told = {key: value for key, value in identity(config).items() if depends(key, config)}
    images = {split: _digest(getattr(splits, split)) for split in SPLITS}
    # Nothing says that files of the same names below another root are the same.
    text = json.dumps([FORMAT, name, told, images, config.data_root, asdict(classes), contents], sort_keys=True)
    return f"{name.replace('/', '-')}-{_sha256(text.encode())[:24]}"


def _digest(manifest: pa.Table) -> str:
    """Names the images and labels of a split by where they lie, and their sizes."""
    return _sha256(json.dumps(manifest.select(MANIFEST.names).to_pydict(), sort_keys=True).encode())


def _files(name: str) -> Iterator[tuple[str, str]]:
    """Names and digests of the files at a local path; none of a hub id, whose files nobody looks at here."""
    place = Path(name).expanduser()
    for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
        if path.is_file():
            status = path.stat()
            yield str(path.relative_to(place)), _file_digest(str(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=256)
def _file_digest(path: str, modified: int, size: int) -> str:
    """Of a file; the weights of a large network take a while to read."""
    return _sha256(Path(path).read_bytes())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
