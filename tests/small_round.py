"""A round that asks people for some regions, of which there is the list alone."""

from __future__ import annotations

import json

from halo_ray.annotations.folder import folder
from halo_ray.data.classes import ClassSet
from halo_ray.storage import Storage

CLASSES = ClassSet("test", ("road", "sky", "sign"))
WHY = {"score": 0.5, "radius": 1.5, "entropy": 0.25, "guess": "sign", "probability": 0.75}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def ask(storage: Storage, count: int) -> Storage:
    """An experiment whose round 2 asks for that many regions."""
    place = {"image": "a", "x": 3, "r": 1, "pixels": 9}
    lines = [{"id": f"r2-{n}-0000", "y": 3 * n, **place, "why": WHY} for n in range(1, count + 1)]
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    folder(storage, 2).write_checksum("requests.jsonl", text)
    folder(storage, 2).write("requests.jsonl", text)
    return storage
