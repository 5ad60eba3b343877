"""Name the valid word that a wrong one probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, valid: Iterable[str]) -> str:
    """A clause for an error message: the valid word closest to ``word``, or all of them where none is close."""
    words = sorted(valid)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if not close:  # the user may have given the last part of a dotted key alone
        close = [w for w in words if w.rpartition(".")[2] == word.rpartition(".")[2]][:1]
    return f"did you mean {close[0]!r}?" if close else f"valid are {', '.join(words)}"
