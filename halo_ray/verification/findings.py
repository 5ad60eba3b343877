"""What a verification has found, and how it is said."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple


class Finding(NamedTuple):
    """Something about a file or directory of an experiment."""

    place: str
    """Its name, relative to the experiment."""
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass
class Findings:
    """All that was found."""

    wrong: list[Finding] = field(default_factory=list)
    """What is not as it must be."""
    notes: list[Finding] = field(default_factory=list)
    """What is worth knowing and no fault: leftovers, and what could not be checked."""
    checked: Counter[str] = field(default_factory=Counter)
    """How much of what was looked at: files, rounds, regions, pixels, candidates, checkpoints."""

    broken: set[str] = field(default_factory=set)
    """Files whose digests are not those that markers hold: nothing more need be said of them."""

    def add(self, place: str, what: str) -> None:
        """Says once that something is wrong there."""
        if (found := Finding(place, what)) not in self.wrong:
            self.wrong.append(found)

    def settle(self) -> None:
        """Leaves one sentence, the first, about each file whose digest is wrong."""
        first = {found.place: found for found in reversed(self.wrong)}
        self.wrong = [found for found in self.wrong if found.place not in self.broken or found is first[found.place]]

    def note(self, place: str, what: str) -> None:
        """Says once what is worth knowing of it."""
        if (found := Finding(place, what)) not in self.notes:
            self.notes.append(found)

    def summary(self) -> str:
        """One line: how much was checked, and what came of it."""
        kinds = ("files", "rounds", "regions", "pixels", "candidates", "checkpoints")
        checked = ", ".join(f"{self.checked[kind]} {kind}" for kind in kinds)
        return f"{checked} checked: {len(self.wrong) or 'nothing'} wrong, {len(self.notes)} notes"
