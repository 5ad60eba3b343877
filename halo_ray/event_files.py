"""TensorBoard event files of an experiment."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from halo_ray.storage import Storage


class EventFiles:
    """Scalars of one run of TensorBoard, in tensorboard/``name``; written in place, or copied to a remote storage."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, f"tensorboard/{name}"
        self._copied = None if storage.local else tempfile.TemporaryDirectory(prefix="halo_ray-")
        self._folder = Path(self._copied.name if self._copied else storage.path(self._name))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer = SummaryWriter(str(self._folder), flush_secs=10)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def flush(self) -> None:
        self._writer.flush()
        if self._copied:
            for file in self._folder.iterdir():
                self._storage.write(f"{self._name}/{file.name}", file.read_bytes())

    def close(self) -> None:
        self.flush()
        self._writer.close()
        if self._copied:
            self._copied.cleanup()
