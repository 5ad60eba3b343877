"""The markers that say which stages of an experiment are done."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from halo_ray.storage import Storage

Attempts = Callable[[str, Callable[[], Any]], Any]
"""Does the work of the stage of that name, as often as it takes."""


def once(name: str, work: Callable[[], Any]) -> Any:
    """Attempts without a second one."""
    return work()


class Stages:
    """Runs each stage of an experiment once: a stage is done when its marker is there, and markers are written last."""

    def __init__(self, storage: Storage, attempts: Attempts = once) -> None:
        self.storage, self._attempts = storage, attempts

    def done(self, name: str) -> bool:
        return self.storage.exists(_marker(name))

    def run(self, name: str, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The JSON-able result of ``work(*args, **kwargs)``: committed now, or read where the stage is done."""
        if self.done(name):
            return self.result(name)
        start = time.monotonic()
        result = self._attempts(name, lambda: work(*args, **kwargs))
        seconds = round(time.monotonic() - start, 3)
        self.storage.write_sealed(_marker(name), {"stage": name, "seconds": seconds, "result": result})
        return result

    def result(self, name: str) -> Any:
        """What a stage that is done gave."""
        return self._read(name)["result"]

    def seconds(self, name: str) -> float:
        """Wall-clock seconds that the stage took in the run that finished it."""
        return float(self._read(name)["seconds"])

    def _read(self, name: str) -> dict[str, Any]:
        """The marker of a stage that is done.

        Raises:
            InputError: it is damaged, or another stage's.
        """
        marker = self.storage.read_sealed(_marker(name))
        if marker.get("stage", name) != name or not {"seconds", "result"} <= marker.keys():  # older ones do not say
            raise self.storage.damaged(_marker(name), f"it is not the marker of {name}")
        return marker


def _marker(name: str) -> str:
    return f"stages/{name}.json"
