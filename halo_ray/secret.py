"""Keep credentials out of what is shown and stored."""

from __future__ import annotations

import html
import json
import re

from halo_ray.place import HIDDEN, Place, decoded, parse

SHORTEST = 4
"""Characters of the shortest secret that is looked for everywhere; shorter ones would blot out half of a text. They are
hidden in URIs alone."""

_ALONE = 8
"""Shorter secrets are words now and then, and replaced only where no letter or digit is beside them."""

_BESIDE_NOTHING = r"(?:(?<![^\W_])|(?<=%[0-9A-Fa-f]{2})|(?<=%25[0-9A-Fa-f]{2})|(?<=\\[nrt]))"
"""Before a secret: no letter or digit but those of an escape."""

_URI = re.compile(r"(?<![\w/.+-])[A-Za-z][A-Za-z0-9+.-]+://", re.A)
_PASSWORD = re.compile(r"[^/?#:@\s]*:(?=\S)")
_PORT = re.compile(r"[^/?#:@\s]*:\d{1,5}(?![^\s/?#'\"),.;:\]])[^\s@]*(?=\s|$)")
_SPACE = r"(?:\s|\+|%(?:25)?[0-9A-Fa-f]{2}|\\[nrtfvxuU0-9A-Fa-f]+)+"
_CLOSING = re.compile(r"""['")\],.:;>}]{0,4}$""")


class Secrets:
    """The secrets that one process has seen, to be found in any text, however a library wrote them there."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._patterns: dict[str, str] = {}
        self._any: re.Pattern[str] | None = None

    def add(self, place: Place) -> None:
        """Looks for the credentials of a place from now on."""
        for written in place.secrets:
            if written not in self._seen:
                self._seen.add(written)
                for secret in {written, decoded(written)}:
                    self._add(secret)
        credentials = f"{place.raw_user}:{place.raw_password}"
        if place.raw_password and credentials not in self._seen:
            self._seen.add(credentials)
            # Found whole, they tell where a password ends that holds @ or spaces.
            self._patterns[credentials], self._any = rf"(?<=://){_in_any_form(credentials)}(?=@)", None

    def hide(self, text: str) -> str:
        """The text without any of them."""
        if not self._patterns:
            return text
        if self._any is None:
            longest_first = sorted(self._patterns, key=len, reverse=True)
            self._any = re.compile("|".join(self._patterns[secret] for secret in longest_first))
        return self._any.sub(HIDDEN, text)

    def _add(self, secret: str) -> None:
        core = secret.strip()  # sentences lose what stands around them
        if len(core) < SHORTEST or core in self._patterns:
            return
        pattern = _in_any_form(core)
        if len(core) < _ALONE:
            pattern = rf"{_BESIDE_NOTHING}{pattern}(?![^\W_])"
        self._patterns[core], self._any = pattern, None


_SECRETS = Secrets()
"""The process's own: a library's error must be cleaned wherever it is caught, by whoever prints it."""


def known(text: str) -> Place:
    """The place that a local path or URI names; from now on its credentials are hidden in every text."""
    place = parse(text)
    if place.is_uri:
        _SECRETS.add(place)
    return place


def shown(place: str) -> str:
    """What may be printed of a local path or a URI: the same, without the credentials of the latter."""
    return known(place).shown


def stored(place: str) -> str:
    """What may be written to a file of a local path or a URI: that of the same files, for those who may read them."""
    return known(place).bare


def redacted(text: str) -> str:
    """A text, such as another library's error, without the credentials of places.

    Hidden are all secrets that this process has met in a place, and what a URI in the text holds; paths stay.
    """
    text = _SECRETS.hide(text)
    if "://" not in text:
        return text
    begins = [found.start() for found in _URI.finditer(text)]
    if not begins:
        return text
    parts = [text[begin:end] for begin, end in zip(begins, [*begins[1:], len(text)], strict=True)]
    return text[: begins[0]] + "".join(map(_without_credentials, parts))


def _without_credentials(text: str) -> str:
    """The same for a text that begins with its only URI, whose end is guessed: rather too late than too early."""
    start = text.index("://") + len("://")
    line = text.partition("\n")[0]
    end = start
    if _PASSWORD.match(line, start) and not _PORT.match(line, start):
        end = max(line.rfind("@"), start)
    while end < len(line) and not line[end].isspace():
        end += 1
    end = _CLOSING.search(text[:end]).start()  # type: ignore[union-attr]
    return parse(text[:end]).shown + text[end:]


def _in_any_form(secret: str) -> str:
    """A pattern of a text as it is, percent-encoded, with escapes of Python, JSON or HTML, and on one line."""
    spaced = re.split(r"(\s+)", secret)
    return "".join(_SPACE if place % 2 else "".join(map(_character, part)) for place, part in enumerate(spaced))


def _character(letter: str) -> str:
    if letter.isascii() and letter.isalnum():
        return letter
    hexadecimal = "".join(f"%{byte:02X}" for byte in letter.encode(errors="surrogatepass"))
    forms = {letter, f"\\{letter}", f"&#{ord(letter)};", html.escape(letter), json.dumps(letter)[1:-1]}
    forms |= {repr(letter)[1:-1], ascii(letter)[1:-1], ascii(ascii(letter))[2:-2]}
    # Longest first: an escaped backslash begins with a backslash.
    plain = "|".join(map(re.escape, sorted(forms, key=len, reverse=True)))
    return f"(?:{plain}|(?i:{hexadecimal}|{hexadecimal.replace('%', '%25')}))"
