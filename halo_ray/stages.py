"""The markers that say which stages of an experiment are done, and seal what they left."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from halo_ray.errors import InputError
from halo_ray.storage import Storage, sealed, sha256
from halo_ray.versions import versions

Attempts = Callable[[str, Callable[[], Any]], Any]
"""Does the work of the stage of that name, as often as it takes."""

Files = Callable[[str, Any], Collection[str]]
"""The files of the stage of that name, given its result."""

BEGIN = "begin"
"""The stage that commits what an experiment begins with; its marker names the experiment."""

KEYS = ("experiment", "files", "result", "seconds", "stage", "versions")
"""What a marker holds beside its own digest: ``files`` are SHA-256 by name, ``experiment`` is the same in all."""


def once(name: str, work: Callable[[], Any]) -> Any:
    """Attempts without a second one."""
    return work()


class Stages:
    """Runs each stage of an experiment once: a stage is done when its marker is there, and markers are written last."""

    def __init__(self, storage: Storage, attempts: Attempts = once, files: Files = lambda name, result: ()) -> None:
        self.storage, self._attempts, self._files = storage, attempts, files
        self._experiment: str | None = None

    def done(self, name: str) -> bool:
        return self.storage.exists(marker_file(name))

    @property
    def experiment(self) -> str:
        """Names the experiment: a digest of its identity and data when it began.

        Raises:
            InputError: the marker that holds it is gone or damaged.
        """
        if self._experiment is None:
            self._experiment = str(self._read(BEGIN, None)["experiment"])
        return self._experiment

    def run(self, name: str, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The JSON-able result of ``work(*args, **kwargs)``: committed now, or read where the stage is done.

        Raises:
            InputError: another run has committed the stage meanwhile.
        """
        if self.done(name):
            return self.result(name)
        start = time.monotonic()
        result = self._attempts(name, lambda: work(*args, **kwargs))
        seconds = round(time.monotonic() - start, 3)
        self.commit(name, self.experiment, result, self._files(name, result), seconds)
        return result

    def commit(self, name: str, experiment: str, result: Any, files: Collection[str], seconds: float) -> None:
        """Writes the marker of a stage.

        Raises:
            InputError: another run has written it meanwhile.
        """
        marker = {
            "stage": name,
            "experiment": experiment,
            "seconds": seconds,
            "versions": versions(),
            "files": {file: sha256(self.storage.read(file)) for file in sorted(files)},
            "result": result,
        }
        try:
            self.storage.create(marker_file(name), sealed(marker))
        except FileExistsError as error:
            raise InputError(
                f"another run has committed {name} of {self.storage.uri} meanwhile: let only one run work on an "
                "experiment; the same command again goes on from what is committed"
            ) from error

    def result(self, name: str) -> Any:
        """What a stage that is done gave."""
        return self.marker(name)["result"]

    def seconds(self, name: str) -> float:
        """Wall-clock seconds that the stage took in the run that finished it."""
        return float(self.marker(name)["seconds"])

    def marker(self, name: str) -> dict[str, Any]:
        """The marker of a stage that is done (KEYS).

        Raises:
            InputError: it is gone, damaged, or another stage's or experiment's.
        """
        return self._read(name, self.experiment)

    def read(self, name: str, file: str) -> bytes:
        """A file that the marker of a stage seals.

        Raises:
            InputError: it is gone or damaged.
        """
        digest = self.marker(name)["files"].get(file)
        try:
            data = self.storage.read(file)
        except FileNotFoundError as error:
            raise self.storage.gone(file) from error
        if sha256(data) != digest:
            raise self.storage.damaged(file, f"its SHA-256 is not that in {marker_file(name)}")
        return data

    def _read(self, name: str, experiment: str | None) -> dict[str, Any]:
        file = marker_file(name)
        try:
            marker = self.storage.read_sealed(file)
        except FileNotFoundError as error:
            raise self.storage.gone(file) from error
        if sorted(marker) != sorted(KEYS) or marker["stage"] != name:
            raise self.storage.damaged(file, f"it is not the marker of {name}")
        if experiment not in (None, marker["experiment"]):
            raise self.storage.damaged(file, f"it is of another experiment than {marker_file(BEGIN)}")
        return marker


def marker_file(name: str) -> str:
    """The file of a stage's marker."""
    return f"stages/{name}.json"
