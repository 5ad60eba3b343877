"""Files of candidate regions: what a row holds, and how the coordinator and its tasks read them.

Imported by the coordinator's process, which stays small: nothing here needs torch.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from halo_ray.acquisition.threshold import Candidates
from halo_ray.storage import Storage, sealed, sha256
from halo_ray.tasks import each

CANDIDATES = pa.schema(
    [
        ("image_id", pa.string()),
        ("row", pa.uint32()),
        ("rank", pa.uint32()),
        ("score", pa.float32()),
        ("y", pa.uint16()),
        ("x", pa.uint16()),
        ("radius", pa.float32()),
        ("entropy", pa.float32()),
        ("guess", pa.uint8()),
        ("probability", pa.float32()),
        ("function", pa.string()),
    ]
)
"""One row per candidate region; ``row`` is the image's row in the pool's manifest, ``rank`` how many candidates of the
image were picked before this one, y and x are pixels of the region's centre at label resolution. Stored in a directory
for each acquisition function."""


FILES = "_files.json"
"""In a directory of candidates: which files it has, by name, with their SHA-256. Who reads it as a Parquet dataset
skips names that begin so."""


_ATTEMPT = re.compile(r"[0-9a-f]{8}")
"""What new_attempt gives."""


class CandidateFile(NamedTuple):
    """A file of candidates, in a storage that whoever reads it knows."""

    name: str
    sha256: str


def candidate_files(storage: Storage, directory: str) -> list[CandidateFile]:
    """The files of a directory of candidates: those that were there when it was complete.

    Raises:
        InputError: the directory is gone, or its list is damaged.
    """
    try:
        digests = storage.read_sealed(f"{directory}/{FILES}")
    except FileNotFoundError as error:
        raise storage.gone(f"{directory}/{FILES}") from error
    return [CandidateFile(f"{directory}/{file}", digests[file]) for file in sorted(digests)]


def new_attempt() -> str:
    """A name for what one attempt at the scoring of a round writes; clear_attempts knows it again."""
    return uuid.uuid4().hex[:8]


def compared_directory(at: str) -> str:
    """Where a round keeps the selections that are only compared."""
    return f"{at}/compared"


def clear_attempts(storage: Storage, at: str) -> None:
    """Deletes what earlier attempts at the scoring of a round left.

    Each has a name of its own, and those are listed first: whoever deletes late, when another run scores by then,
    cannot reach what that one writes.
    """
    for kind in ("candidates", "problems"):
        for name in storage.directories(f"{at}/{kind}"):
            if _ATTEMPT.fullmatch(name):
                storage.clear(f"{at}/{kind}/{name}")


def complete(storage: Storage, directory: str) -> None:
    """Notes what files a directory has, when all are written; they will survive the loss of power."""
    names = [name for name in storage.files(directory) if not name.endswith(f"/{FILES}")]
    digests = each(_digest, [(name,) for name in names], storage)
    told = {name.rpartition("/")[2]: digest for name, digest in zip(names, digests, strict=True)}
    storage.commit(f"{directory}/{FILES}", sealed(told))


def read_candidates(storage: Storage, file: CandidateFile, columns: list[str] | None = None) -> pa.Table:
    """The rows of a file (CANDIDATES), or some of their columns.

    Raises:
        InputError: it is gone or damaged.
    """
    try:
        data = storage.read(file.name)
    except FileNotFoundError as error:
        raise storage.gone(file.name) from error
    if file.sha256 != sha256(data):
        raise storage.damaged(file.name, "its SHA-256 is not that of its list of files")
    return storage.as_table(file.name, data, columns)


@dataclass(frozen=True)
class ReadCandidates:
    """Reads what the global cut needs of a file of candidates, in whatever process."""

    storage: Storage

    def __call__(self, file: CandidateFile) -> Candidates:
        table = read_candidates(self.storage, file, ["score", "row"])
        return Candidates(table["score"].to_numpy(), table["row"].to_numpy())


def _digest(name: str, storage: Storage) -> str:
    storage.sync(name)
    return sha256(storage.read(name))
