"""Maps: whether they are whole."""

from __future__ import annotations

import io
import zipfile
import zlib

import numpy as np

from halo_ray.candidates import FILES
from halo_ray.selection import map_name
from halo_ray.storage import round_directory
from halo_ray.verification.reader import RESTORE
from halo_ray.verification.subject import Subject

MAPS = "radius", "entropy", "score"


def check_maps(subject: Subject, number: int) -> None:
    """Checks the maps that a scored round has kept, one file at a time."""
    at, pool = round_directory(number), subject.pool
    if f"{at}/select" not in subject.done or pool is None:
        return
    files = [name for name in subject.reader.storage.files(f"{at}/maps") if not name.endswith(f"/{FILES}")]
    if not files:
        return
    size_of = {map_name(image_id): size for image_id, size in zip(pool.ids.to_pylist(), pool.sizes, strict=True)}
    for name in files:
        size = size_of.get(name.rpartition("/")[2])
        if size is None:
            subject.findings.note(name, "is the map of no image of the pool: delete it")
            continue
        data = subject.reader.read(name)
        if data is None:
            continue
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as maps:  # checks the CRC of each
                shapes = {key: maps[key].shape for key in maps.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            subject.findings.add(name, f"is damaged ({' '.join(str(error).split())}): {RESTORE}")
            continue
        if shapes != dict.fromkeys(MAPS, size):
            subject.findings.add(name, f"holds {shapes}, not {', '.join(MAPS)} of {size}: {RESTORE}")
