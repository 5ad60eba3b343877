"""Checkpoints within a stage: those that a killed stage goes on from."""

from __future__ import annotations

from halo_ray.checkpoint import load_state
from halo_ray.storage import Storage

KEPT = 2
"""Checkpoints that are kept within a stage; the one before the last is for a reader that is at it."""


class CheckpointsWithin:
    """Those of the stage that writes ``directory``.

    Args:
        key: names all that fixes the stage's weights; checkpoints with another one count as none.
    """

    def __init__(self, storage: Storage, directory: str, key: str) -> None:
        self._storage, self._at, self.key = storage, f"{directory}-run", key

    def name(self, step: int) -> str:
        """The one after so many steps."""
        return f"{self._at}/{step:08d}"

    def last(self) -> str | None:
        """The last whole one."""
        return next((name for name in reversed(self._all()) if self._is_own(name)), None)

    def has(self, step: int) -> bool:
        """Whether there is a whole one after so many steps."""
        return self._is_own(self.name(step))

    def clear_old(self) -> None:
        """Deletes all but the last ones."""
        for name in self._all()[:-KEPT]:
            self._storage.clear(name)

    def clear_others(self) -> None:
        """Deletes what was not finished, or was left by a stage that another configuration began here."""
        for name in self._all():
            if not self._is_own(name):
                self._storage.clear(name)

    def clear(self) -> None:
        """Deletes all."""
        self._storage.clear(self._at)

    def _all(self) -> list[str]:
        """By step; any of them may be unfinished."""
        return [f"{self._at}/{name}" for name in self._storage.directories(self._at) if name.isdigit()]

    def _is_own(self, name: str) -> bool:
        return (load_state(self._storage, name) or {}).get("key") == self.key
