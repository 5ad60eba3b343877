"""Whether an experiment's files are what was committed: every file that is read has a digest that a marker holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from halo_ray.annotations.folder import ANSWERS, RECEIVED, folder_name
from halo_ray.annotations.ledger import Ledger
from halo_ray.candidates import FILES, compared_directory
from halo_ray.checkpoint import CHECKPOINT_FILES
from halo_ray.config import Config
from halo_ray.data.features import feature_file, is_sealed
from halo_ray.data.manifest import SPLITS, load_split
from halo_ray.errors import InputError
from halo_ray.parallel_reads import read_all
from halo_ray.report.layout import FILES as REPORT_FILES
from halo_ray.report.layout import REPORT
from halo_ray.stage_order import prerequisites
from halo_ray.stages import Stages, marker_file
from halo_ray.storage import Storage, sha256

AGAIN = "write the report again with jobs/report.py"

READERS = 8
"""Files that are read at the same time."""

FEATURES = "features"
"""The stage that stores the features of a frozen backbone."""

GONE = "is gone"

NOTES = "shared/"
"""Below stages/: notes on results that were, or could be, shared with other experiments."""


class Broken(NamedTuple):
    """A file that is not what was committed."""

    name: str
    what: str
    """Completes a sentence that begins with the name."""


def files_of(storage: Storage, name: str, result: Any) -> list[str]:
    """The files that the marker of a stage seals; those of many images by their list."""
    at, _, kind = name.rpartition("/")
    found: list[str] = []
    if kind in ("pretrain", "train", "control"):
        found = [f"{result['checkpoint']}/{file}" for file in CHECKPOINT_FILES]
    elif kind == "score":
        found = [f"{directory}/{FILES}" for directory in result["candidates"].values()]
    elif kind == "select":
        maps = f"{at}/maps/{FILES}"
        found = [result["selection"], *storage.files(compared_directory(at)), *([maps] if storage.exists(maps) else [])]
    elif kind == "annotate":
        number = int(at.rpartition("/")[2])
        found = [Ledger.file(number), Ledger.checksum_file(number), *_of_people(storage, folder_name(number))]
    note = note_file(name)
    return [*found, note] if storage.exists(note) else found


def broken_features(storage: Storage, names: Sequence[str], key: str) -> Iterator[Broken]:
    """Which files of stored features are gone or damaged.

    Args:
        key: as Features has it.
    """
    with ThreadPoolExecutor(READERS) as readers:
        for name, sound in zip(names, readers.map(lambda name: _is_sound(storage, name, key), names), strict=True):
            if not sound:
                yield Broken(name, "is gone or damaged")


def _is_sound(storage: Storage, name: str, key: str) -> bool:
    try:
        return is_sealed(storage.read(name), name.removeprefix("features/"), key)
    except FileNotFoundError:
        return False


def _own_features(storage: Storage) -> Iterator[Broken]:
    """Which files of an experiment's own features are gone or damaged."""
    result = Stages(storage).result(FEATURES)
    if result["shared"] is None:
        for split in SPLITS:
            ids = load_split(storage, split)["image_id"].to_pylist()
            names = [feature_file(split, image_id, side) for image_id in ids for side in (False, True)]
            yield from broken_features(storage, names, result["key"])


def note_file(name: str) -> str:
    """Says what names the result of a stage among those of other experiments."""
    return f"stages/{NOTES}{name}.json"


def committed(storage: Storage) -> list[str]:
    """The stages that are done, sorted."""
    files = (file.removeprefix("stages/") for file in storage.tree("stages") if file.endswith(".json"))
    return sorted(file.removesuffix(".json") for file in files if not file.startswith(NOTES))


def broken(storage: Storage, sealed_files: Mapping[str, str]) -> Iterator[Broken]:
    """Which files are gone or damaged, in the order of their names.

    Args:
        sealed_files: SHA-256 by name; a list of files (FILES) stands for those too.
    """
    names = sorted(sealed_files)
    with ThreadPoolExecutor(READERS) as readers:
        problems = readers.map(lambda name: _problem(storage, name, sealed_files[name]), names)
        for name, found in zip(names, problems, strict=True):
            if found is not None:
                yield found
            elif name.endswith(f"/{FILES}"):
                directory = name.rpartition("/")[0]
                listed = {f"{directory}/{file}": digest for file, digest in storage.read_sealed(name).items()}
                yield from broken(storage, listed)


def check_stage(stages: Stages, name: str) -> None:
    """Reads all that the marker of a stage seals.

    Raises:
        InputError: the marker or a file is gone or damaged.
    """
    for each in broken(stages.storage, stages.marker(name)["files"]):
        raise InputError(
            f"{stages.storage.uri}/{each.name} {each.what}, says {marker_file(name)}: restore it from a copy"
        )


def check_experiment(storage: Storage, config: Config, rounds: int) -> None:
    """Reads all that the markers of an experiment of so many rounds seal.

    Raises:
        InputError: a marker or file is gone or damaged.
    """
    stages, done = Stages(storage), committed(storage)
    needs = prerequisites(config, rounds)
    for name in done:
        for need in needs.get(name, ()):
            # Features can be computed anew at any time.
            if need not in done and need != FEATURES:
                raise storage.gone(marker_file(need))
        check_stage(stages, name)
    for each in broken_answers(storage):
        if each.what != GONE:
            raise InputError(f"{storage.uri}/{each.name} {each.what}: delete it, and the next run writes it again")
    if FEATURES in done:
        for each in _own_features(storage):
            raise InputError(
                f"{storage.uri}/{each.name} {each.what}: delete {marker_file(FEATURES)}, so that all are computed anew"
            )


def broken_answers(storage: Storage) -> Iterator[Broken]:
    """Which answers of the page are not, or not as they were when their round was read and bought."""
    for name, data, now in _answers_of_page(storage):
        if now != data:
            yield Broken(name, GONE if now is None else "is not what it was when its round was read")


def lost_answers(storage: Storage) -> dict[str, bytes]:
    """The answers of the page that were bought and are gone, by name: what was received holds them too."""
    return {name: data for name, data, now in _answers_of_page(storage) if now is None}


def _answers_of_page(storage: Storage) -> Iterator[tuple[str, bytes, bytes | None]]:
    """The name of each that was bought, what it held, and what it holds now."""
    for stage in committed(storage):
        at, _, kind = stage.rpartition("/")
        received = f"{folder_name(int(at.rpartition('/')[2]))}/{RECEIVED}" if kind == "annotate" else ""
        if received and storage.exists(received):
            directory, found = received.rpartition("/")[0], storage.read_json(received)
            if not isinstance(held := found.get("page"), dict):
                raise storage.damaged(received, "it does not say what the page held")
            told = {f"{directory}/{name}": str(text).encode() for name, text in held.items()}
            now = dict(read_all(storage, [*told], gone=True))
            yield from ((name, data, now.get(name)) for name, data in told.items())


def check_report(storage: Storage) -> None:
    """Reads the report that an experiment ended with.

    Raises:
        InputError: a file of it is gone or damaged.
    """
    for each in broken_report(storage, Stages(storage).experiment):
        raise InputError(f"{storage.uri}/{each.name} {each.what}: {AGAIN}")


def broken_report(storage: Storage, experiment: str) -> Iterator[Broken]:
    """Which files of an experiment's own report are gone or damaged."""
    listed = f"{REPORT}/{REPORT_FILES}"
    try:
        found = storage.read_sealed(listed)
    except FileNotFoundError:
        yield Broken(listed, GONE)
    except InputError:
        yield Broken(listed, "is damaged")
    else:
        if found.get("experiments") != [experiment]:
            yield Broken(listed, "is of another experiment")
        else:
            yield from broken(storage, {f"{REPORT}/{name}": digest for name, digest in found["files"].items()})


def _problem(storage: Storage, name: str, digest: str) -> Broken | None:
    try:
        data = storage.read(name)
    except FileNotFoundError:
        return Broken(name, GONE)
    return None if sha256(data) == digest else Broken(name, "is damaged, its SHA-256 is another")


def _of_people(storage: Storage, folder: str) -> list[str]:
    """What people were asked and have answered, but for pictures that they only look at and the files of the page.

    What was received holds the page's answers as they were read: later ones are on the disk until they are refused.
    """
    unsealed = (f"{folder}/crops/", f"{folder}/frames/", f"{folder}/page", f"{folder}/{ANSWERS}/page/")
    return [name for name in storage.tree(folder) if not name.startswith(unsealed)]
