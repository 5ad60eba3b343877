"""Stages that experiments share: what one has computed, others with the same settings of it take over."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from halo_ray.config import Config, identity
from halo_ray.data.classes import ClassSet
from halo_ray.data.listing import MANIFEST
from halo_ray.data.manifest import SPLITS, Splits
from halo_ray.models.backbones import ARCHITECTURES
from halo_ray.shared_scores import covers, take_candidates
from halo_ray.storage import Stages, Storage, round_directory

if TYPE_CHECKING:
    from halo_ray.context import Context

_MARKER = "stage.json"

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
    "training.round_",
    "training.between_rounds",
    "training.control",
    "training.protocol",
)
_ONE_BUDGET = ("acquisition.function", "acquisition.budget", "acquisition.rounds")


@dataclass(frozen=True)
class Published:
    """The result of a stage that an experiment has left for others."""

    storage: Storage
    """Holds its files, under the names that they have in an experiment."""
    result: Any
    plan: dict[str, Any] | None
    """Of the first round of the experiment that computed it."""


@dataclass(frozen=True)
class Shareable:
    """What a kind of stage depends on, and what is copied of it."""

    depends: Callable[[str, Config], bool]
    """Whether it depends on an identity key."""
    directories: Callable[[Any], list[str]] = lambda result: []
    """Directories with its files, given its result."""
    serves: Callable[[Context, Published], bool] = lambda context, found: True
    take: Callable[[Context, Published], Any] | None = None
    """Gives an experiment the result and its files; None: the files are copied, the result is the same."""
    whole: Callable[[SharedStore, Any], bool] = lambda store, result: True
    """Whether the store has what is not copied to it."""


def _all_but(*beginnings: str) -> Callable[[str, Config], bool]:
    return lambda key, config: not key.startswith(beginnings)


def _features(key: str, config: Config) -> bool:
    random_weights = config.model.backbone in ARCHITECTURES and not config.model.pretrained
    return key.startswith(_BACKBONE) or (key == "seed" and random_weights)


SHAREABLE = {
    "inspection": Shareable(
        lambda key, config: key.startswith(("data.", "training.source_sampling.method")), lambda result: ["manifests"]
    ),
    # Too large to be copied: they were written to the store, or nobody else can use them.
    "features": Shareable(_features, whole=lambda store, result: result["shared"] and store.holds(result["shared"])),
    "pretrain": Shareable(_all_but(*_NOT_PRETRAINING, "evaluation."), lambda result: [result["checkpoint"]]),
    "evaluate": Shareable(_all_but(*_NOT_PRETRAINING)),
    "score": Shareable(
        _all_but(*(key for key in _NOT_PRETRAINING if key != "acquisition."), *_ONE_BUDGET, "evaluation."),
        lambda result: sorted({name.rpartition("/")[0] for name in result["candidates"].values()}),
        serves=lambda context, found: covers(context, found.storage, found.result, found.plan),
        take=lambda context, found: take_candidates(context, found.storage, found.result),
    ),
    "control": Shareable(
        lambda key, config: key == "acquisition.rounds" or not key.startswith(("acquisition.", "evaluation.")),
        lambda result: [result["checkpoint"]],
    ),
}
"""By kind: the last part of a stage's name."""


class SharedStore:
    """Results of stages under the hash of what they depend on; each is published once and never changed after that.

    Of two experiments that compute the same at the same time, the first to end publishes it.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def holds(self, directory: str) -> bool:
        """Whether there is a directory of that name."""
        return self._storage.exists(directory)

    def find(self, entry: str) -> Published | None:
        """The result under that name; None where there is none yet."""
        if not self._storage.exists(f"{entry}/{_MARKER}"):
            return None
        marker = self._storage.read_json(f"{entry}/{_MARKER}")
        return Published(self._storage.below(f"{entry}/{marker['attempt']}"), marker["result"], marker["plan"])

    def publish(
        self, entry: str, source: Storage, directories: list[str], result: Any, plan: dict[str, Any] | None = None
    ) -> None:
        """Copies ``directories`` of ``source`` and publishes them with ``result``, unless there is one already."""
        if self._storage.exists(f"{entry}/{_MARKER}"):
            return
        attempt = uuid.uuid4().hex[:8]
        for directory in directories:
            self._storage.below(f"{entry}/{attempt}").take(source, directory)
        marker = {"attempt": attempt, "experiment": source.uri, "result": result, "plan": plan}
        try:
            self._storage.create(f"{entry}/{_MARKER}", (json.dumps(marker, indent=1) + "\n").encode())
        except FileExistsError:
            self._storage.clear(f"{entry}/{attempt}")


class SharedStages(Stages):
    """Stages of an experiment, those that can be shared taken from a store, or left in it for others."""

    def __init__(self, context: Context, store: SharedStore) -> None:
        super().__init__(context.storage)
        self._context, self._store = context, store

    def run(self, name: str, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As Stages.run."""
        kind = shared_kind(self._context, name)
        if kind is None:
            return super().run(name, work, *args, **kwargs)
        shareable, entry = SHAREABLE[kind], stage_entry(self._context, name)
        found = self._store.find(entry)
        if found is not None and shareable.serves(self._context, found):
            return super().run(name, self._take, shareable, found)
        # A run may be killed before it has published, and asked for more rounds after that, which is another entry.
        note = f"stages/shared/{entry}.json"
        if not self.done(name):
            self.storage.write_json(note, name)
        result = super().run(name, work, *args, **kwargs)
        if found is None and self.storage.exists(note) and shareable.whole(self._store, result):
            plan = asdict(self._context.plan[0]) if self._context.plan else None
            self._store.publish(entry, self._context.storage, shareable.directories(result), result, plan)
        return result

    def _take(self, shareable: Shareable, found: Published) -> Any:
        if shareable.take is not None:
            return shareable.take(self._context, found)
        for directory in shareable.directories(found.result):
            self._context.storage.take(found.storage, directory)
        return found.result


def stages_of(context: Context) -> Stages:
    """The stages of an experiment, which shares some of them if execution.shared_stages says where."""
    where = context.config.execution.shared_stages
    return Stages(context.storage) if where is None else SharedStages(context, SharedStore(Storage(where)))


def shared_kind(context: Context, name: str) -> str | None:
    """Which kind of stage that others can use ``name`` is, if any."""
    if re.fullmatch(rf"features|pretrain|{round_directory(0)}/evaluate|rounds/\d+/control", name):
        return name.rpartition("/")[2]
    # Later rounds score with models of their own; maps are not kept for others.
    if name == f"{round_directory(1)}/score" and context.config.execution.save_maps == "none":
        return "score"
    return None


def stage_entry(context: Context, name: str) -> str:
    """Where the store keeps a stage: its name and the hash of all that its result depends on."""
    return _entry(name, context.config, context.splits, context.classes)


def inspection_entry(config: Config, listed: Splits, classes: ClassSet) -> str:
    """The same of the inspection, which comes before the stages; ``listed`` are the files that it looks at."""
    return _entry("inspection", config, listed, classes)


def _entry(name: str, config: Config, splits: Splits, classes: ClassSet) -> str:
    depends = SHAREABLE[name.rpartition("/")[2]].depends
    told = {key: value for key, value in identity(config).items() if depends(key, config)}
    images = {split: _digest(getattr(splits, split)) for split in SPLITS}
    # Nothing says that files of the same names below another root are the same.
    text = json.dumps([name, told, images, config.data_root, asdict(classes)], sort_keys=True)
    return f"{name.replace('/', '-')}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def _digest(manifest: pa.Table) -> str:
    """Names the images and labels of a split by where they lie, and their sizes."""
    return hashlib.sha256(json.dumps(manifest.select(MANIFEST.names).to_pydict(), sort_keys=True).encode()).hexdigest()
