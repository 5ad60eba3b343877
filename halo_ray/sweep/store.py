"""What the trials of a sweep share below its own directory: whether it is what was published."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from halo_ray.data.features import feature_file
from halo_ray.data.manifest import SPLITS, load_split
from halo_ray.errors import InputError
from halo_ray.patience import StorageError
from halo_ray.seals import FEATURES, Broken, broken, broken_features
from halo_ray.shared_stages import MARKER, SharedStore
from halo_ray.stages import Stages
from halo_ray.storage import Storage
from halo_ray.sweep.space import SHARED, TRIALS


def check_store(storage: Storage, *, ended: bool) -> None:
    """Reads all that the trials of a sweep in ``storage`` share.

    Raises:
        InputError: a file is gone or damaged.
    """
    for each in broken_store(storage, ended=ended):
        directory = "/".join(each.name.split("/")[:2])
        raise InputError(f"{storage.uri}/{each.name} {each.what}: delete {directory}, which is computed anew if needed")


def broken_store(storage: Storage, *, ended: bool) -> Iterator[Broken]:
    """Which files of what the trials share are gone or damaged, named from the sweep's directory on.

    Args:
        ended: the sweep is; before that, an entry without a marker is being published, or its publisher died.
    """
    wanted = _features(storage)
    for entry in storage.directories(SHARED):
        at = f"{SHARED}/{entry}"
        marker = f"{at}/{MARKER}"
        try:
            found = SharedStore(storage.below(SHARED)).find(entry)
        except StorageError:
            raise
        except InputError as error:
            yield Broken(marker, str(error).removeprefix(f"{storage.uri}/{marker} ").partition(": restore")[0])
            continue
        if found is None:
            if ended:
                yield Broken(marker, "is gone")
            continue
        for each in broken(found.storage, found.files):
            yield Broken(f"{found.storage.root[len(storage.root) + 1 :]}/{each.name}", each.what)
        if entry.rpartition("-")[0] == FEATURES:
            own = storage.below(at)
            for each in broken_features(own, sorted({*own.tree(FEATURES), *wanted[entry]}), found.result["key"]):
                yield Broken(f"{at}/{each.name}", each.what)


def _features(storage: Storage) -> defaultdict[str, set[str]]:
    """The files of features that trials use, by the entry that holds them; trials that are damaged are left out."""
    files: defaultdict[str, set[str]] = defaultdict(set)
    for name in storage.directories(TRIALS):
        trial = storage.below(f"{TRIALS}/{name}")
        try:
            if (entry := _entry(trial)) is not None and entry not in files:
                for split in SPLITS:
                    ids = load_split(trial, split)["image_id"].to_pylist()
                    files[entry] |= {feature_file(split, each, side) for each in ids for side in (False, True)}
        except StorageError:
            raise
        except (InputError, FileNotFoundError):
            continue
    return files


def _entry(trial: Storage) -> str | None:
    """The entry that holds the features of a trial; None where none does."""
    stages = Stages(trial)
    return stages.result(FEATURES)["shared"] if stages.done(FEATURES) else None
