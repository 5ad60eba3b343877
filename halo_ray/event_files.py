"""TensorBoard event files of an experiment."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

from halo_ray.storage import Storage


class EventFiles:
    """Scalars of one run of TensorBoard, in a new file of tensorboard/``name``.

    It is written in place, or copied to a remote storage at every flush. tensorboardX's usual writer would do so in a
    thread that nothing waits for.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._name = storage, f"tensorboard/{name}"
        self._copied = None if storage.local else tempfile.TemporaryDirectory(prefix="halo_ray-")
        self._folder = Path(self._copied.name if self._copied else storage.path(self._name))
        if storage.local:
            storage.make(self._name)
        # The name has whole seconds alone.
        self._writer = EventsWriter(str(self._folder / "events"), filename_suffix=f".{uuid.uuid4().hex[:8]}")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(key, value)))

    def flush(self) -> None:
        self._writer.flush()
        self._copy()

    def close(self) -> None:
        self._writer.close()
        self._copy()
        if self._copied:
            self._copied.cleanup()

    def _copy(self) -> None:
        if self._copied:
            for file in self._folder.iterdir():
                self._storage.write(f"{self._name}/{file.name}", file.read_bytes())
