"""Files of candidate regions: what a row holds, and how the coordinator and its tasks read them.

Imported by the coordinator's process, which stays small: nothing here needs torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from halo_ray.acquisition.threshold import Candidates
from halo_ray.storage import Storage
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


class CandidateFile(NamedTuple):
    """A file of candidates, in a storage that whoever reads it knows."""

    name: str
    sha256: str | None
    """None: it was written before files had one."""


def candidate_files(storage: Storage, directory: str) -> list[CandidateFile]:
    """The files of a directory of candidates: those that were there when it was complete.

    Raises:
        InputError: the directory is gone, or its list is damaged.
    """
    if not storage.exists(f"{directory}/{FILES}"):
        if not storage.exists(directory):
            raise storage.gone(directory)
        return [CandidateFile(name, None) for name in storage.files(directory)]
    digests = storage.read_sealed(f"{directory}/{FILES}", older=False)
    return [CandidateFile(f"{directory}/{file}", digests[file]) for file in sorted(digests)]


def complete(storage: Storage, directory: str) -> None:
    """Notes what files a directory has, when all are written; they will survive the loss of power."""
    names = storage.files(directory)
    digests = each(_digest, [(name,) for name in names], storage)
    told = {name.rpartition("/")[2]: digest for name, digest in zip(names, digests, strict=True)}
    storage.write_sealed(f"{directory}/{FILES}", told)


def read_candidates(storage: Storage, file: CandidateFile, columns: list[str] | None = None) -> pa.Table:
    """The rows of a file (CANDIDATES), or some of their columns.

    Raises:
        InputError: it is gone or damaged.
    """
    try:
        data = storage.read(file.name)
    except FileNotFoundError as error:
        raise storage.gone(file.name) from error
    if file.sha256 not in (hashlib.sha256(data).hexdigest(), None):
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
    return hashlib.sha256(storage.read(name)).hexdigest()
