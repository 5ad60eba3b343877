"""Stages that experiments share: what one has computed, others with the same settings of it take over."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from halo_ray.attempts import attempted
from halo_ray.errors import InputError
from halo_ray.seals import broken, files_of, note_file
from halo_ray.secret import shown
from halo_ray.shared_keys import kind_of, stage_entry
from halo_ray.shared_scores import covers, take_candidates
from halo_ray.stages import Attempts, Stages
from halo_ray.storage import Storage, round_directory, sealed, sha256

if TYPE_CHECKING:
    from halo_ray.context import Context

FEATURES, PRETRAIN = "features", "pretrain"
MIXED = "mixed"
"""Noted of a stage that was done partly with one setting and partly with another."""

MARKER = "stage.json"
"""Of an entry: says which attempt counts, and seals its files."""


@dataclass(frozen=True)
class Published:
    """The result of a stage that an experiment has left for others."""

    storage: Storage
    """Holds its files, under the names that they have in an experiment."""
    result: Any
    plan: dict[str, Any] | None
    """Of the first round of the experiment that computed it."""
    files: dict[str, str]
    """SHA-256 by name."""

    def check(self) -> None:
        """Raises InputError where a file is not what was published."""
        for each in broken(self.storage, self.files):
            raise InputError(
                f"{self.storage.uri}/{each.name} {each.what}: delete the directory above it in the directory of "
                "execution.shared_stages, so that it is computed anew"
            )


@dataclass(frozen=True)
class Shareable:
    """What others take over of a kind of stage."""

    directories: Callable[[Any], list[str]] = lambda result: []
    """Directories with its files, given its result."""
    serves: Callable[[Context, Published], bool] = lambda context, found: True
    take: Callable[[Context, Published], Any] | None = None
    """Gives an experiment the result and its files; None: the files are copied, the result is the same."""
    whole: Callable[[SharedStore, Any], bool] = lambda store, result: True
    """Whether the store has what is not copied to it."""


SHAREABLE = {
    "inspection": Shareable(lambda result: ["manifests"]),
    # Too large to be copied: they were written to the store, or nobody else can use them.
    "features": Shareable(whole=lambda store, result: result["shared"] and store.holds(result["shared"])),
    "pretrain": Shareable(lambda result: [result["checkpoint"]]),
    "evaluate": Shareable(),
    "score": Shareable(
        lambda result: sorted({name.rpartition("/")[0] for name in result["candidates"].values()}),
        serves=lambda context, found: covers(context, found.storage, found.result, found.plan),
        take=lambda context, found: take_candidates(context, found.storage, found.result),
    ),
    "control": Shareable(lambda result: [result["checkpoint"]]),
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
        if not self._storage.exists(f"{entry}/{MARKER}"):
            return None
        marker = self._storage.read_sealed(f"{entry}/{MARKER}")
        if marker.get("entry") != entry:
            raise self._storage.damaged(f"{entry}/{MARKER}", "it is of another result")
        storage = self._storage.below(f"{entry}/{marker['attempt']}")
        return Published(storage, marker["result"], marker["plan"], marker["files"])

    def publish(
        self, entry: str, source: Storage, directories: list[str], result: Any, plan: dict[str, Any] | None = None
    ) -> None:
        """Copies ``directories`` of ``source`` and publishes them with ``result``, unless there is one already."""
        if self._storage.exists(f"{entry}/{MARKER}"):
            return
        attempt = uuid.uuid4().hex[:8]
        copy = self._storage.below(f"{entry}/{attempt}")
        for directory in directories:
            copy.take(source, directory)
        marker = {
            "entry": entry,
            "attempt": attempt,
            "experiment": shown(source.uri),
            "result": result,
            "plan": plan,
            "files": {name: sha256(copy.read(name)) for directory in directories for name in copy.tree(directory)},
        }
        try:
            self._storage.create(f"{entry}/{MARKER}", sealed(marker))
        except FileExistsError:
            self._storage.clear(f"{entry}/{attempt}")


class SharedStages(Stages):
    """Stages of an experiment, those that can be shared taken from a store, or left in it for others."""

    def __init__(self, context: Context, store: SharedStore) -> None:
        super().__init__(context.storage, _attempts(context), partial(files_of, context.storage))
        self._context, self._store = context, store
        self._entries: dict[str, str] = {}

    def run(self, name: str, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """As Stages.run."""
        kind = shared_kind(self._context, name)
        if kind is None:
            return super().run(name, work, *args, **kwargs)
        if not self.done(name):
            self._begin(name)
        cached = self._context.config.training.cache_features
        if not all(self._is_of_now(stage) for stage in (*_before(name, cached_features=cached), name)):
            return super().run(name, work, *args, **kwargs)
        shareable, entry = SHAREABLE[kind], self._entry(name)
        found = self._store.find(entry)
        if found is not None and shareable.serves(self._context, found):
            return super().run(name, self._take, shareable, found)
        result = super().run(name, work, *args, **kwargs)
        if found is None and shareable.whole(self._store, result):
            plan = asdict(self._context.plan[0]) if self._context.plan else None
            self._store.publish(entry, self._context.storage, shareable.directories(result), result, plan)
        return result

    def _entry(self, name: str) -> str:
        if name not in self._entries:
            self._entries[name] = stage_entry(self._context, name)
        return self._entries[name]

    def _begin(self, name: str) -> None:
        """Notes what names the result of a stage that is not done; nothing does where it was begun as another's."""
        entry = self._entry(name)
        told = entry if self._noted(name) in (None, entry) else MIXED
        self.storage.write_sealed(note_file(name), {"experiment": self.experiment, "stage": name, "entry": told})

    def _is_of_now(self, name: str) -> bool:
        """Whether a stage was done, from its beginning, with what names its result now.

        It need not have been. An experiment may be asked for more rounds, lose the weights that it began with, or go on
        on another device, and be killed before it has published.
        """
        return self._noted(name) == self._entry(name)

    def _noted(self, name: str) -> str | None:
        if not self.storage.exists(note_file(name)):
            return None
        found = self.storage.read_sealed(note_file(name))
        if (found.get("experiment"), found.get("stage")) != (self.experiment, name):
            raise self.storage.damaged(note_file(name), f"it is not the note on {name}")
        return str(found["entry"])

    def _take(self, shareable: Shareable, found: Published) -> Any:
        found.check()
        if shareable.take is not None:
            return shareable.take(self._context, found)
        for directory in shareable.directories(found.result):
            self._context.storage.take(found.storage, directory)
        return found.result


def stages_of(context: Context) -> Stages:
    """The stages of an experiment, which shares some of them if execution.shared_stages says where."""
    where = context.config.execution.shared_stages
    if where is None:
        return Stages(context.storage, _attempts(context), partial(files_of, context.storage))
    return SharedStages(context, SharedStore(Storage(where, context.storage.patience)))


def _attempts(context: Context) -> Attempts:
    return partial(attempted, max_failures=context.config.execution.max_failures)


def _before(name: str, *, cached_features: bool) -> list[str]:
    """The shared stages whose results a stage goes on from."""
    features = [FEATURES] if cached_features else []
    if name == FEATURES:
        return []
    if name == PRETRAIN:
        return features
    twin = re.fullmatch(r"rounds/(\d+)/control", name)
    twins = [f"{round_directory(number)}/control" for number in range(1, int(twin[1]) if twin else 0)]
    return [*features, PRETRAIN, *twins]


def shared_kind(context: Context, name: str) -> str | None:
    """Which kind of stage that others can use ``name`` is, if any."""
    if re.fullmatch(rf"{FEATURES}|{PRETRAIN}|{round_directory(0)}/evaluate|rounds/\d+/control", name):
        return kind_of(name)
    # Later rounds score with models of their own; maps are not kept for others.
    if name == f"{round_directory(1)}/score" and context.config.execution.save_maps == "none":
        return "score"
    return None
