"""Name the valid word that a wrong one probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, valid: Iterable[str]) -> str:
    """A clause for an error message: the valid word closest to ``word``; all of them where none is close, if few.

    Words may be dotted keys; a user often gives the last part of one alone.
    """
    words = sorted(valid)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if not close:
        by_last_part = {key.rpartition(".")[2]: key for key in reversed(words)}
        last = difflib.get_close_matches(word.rpartition(".")[2], by_last_part, n=1, cutoff=0.6)
        close = [by_last_part[part] for part in last]
    if close:
        return f"did you mean {close[0]!r}?"
    return f"valid are {', '.join(words)}" if len(words) <= 20 else "--help lists what is valid"
