"""Where files lie as users write it: a local path, or a URI that may hold credentials. The one parser of both.

The grammar, which decides every doubt so that no secret is taken for a name::

    place    = path | scheme "://" [ user [ ":" password ] "@" ] host [ "/" path ] [ "?" options ]
    scheme   = a letter, then one or more letters, digits, "+", "." or "-", at the very beginning
    options  = name "=" value { "&" name "=" value }

- What has no scheme at its beginning is a local path: no character of it means anything, and it is never altered.
- A secret may hold any character, as it is or percent-encoded. ``%`` and two hexadecimal digits stand for a character,
  any other ``%`` for itself; ``+`` is no space, and there are no fragments: ``#`` is a letter.
- Credentials end before the first ``?`` behind which an option of some store, or a secret one, is named, and options
  begin at the first ``?`` behind the credentials. The value of a secret ends at ``&`` and such a name,
  any other at ``&`` or ``?`` and a name.
- What stands among the options is shown and stored only if it is a known harmless name with a plain value: however
  a secret is named or misspelled there, it is hidden.
- A user holds none of ``/ ? # :``. With a password, credentials end at the *last* ``@`` before the options, so a key
  with ``@`` behind them is written with ``%40``. A user alone ends at the last ``@`` before the first ``/ ? #``:
  ``s3://bucket/who@where`` has none. HDFS knows no passwords, and ``hdfs://host:8020/a@b`` has no credentials.
- A host with ``:`` that is no port, and that no ``@`` follows, may be half of a secret that holds ``?region=`` or the
  like: then nothing behind the scheme is shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby, starmap
from urllib.parse import quote, unquote_to_bytes

HIDDEN = "***"
"""Stands for a secret in what is shown."""

_SECRET_OPTION = r"[\w-]*(?:key|secret|token|pass|pwd|auth|credential|sig|sas)[\w-]*"
"""Names of options that may be shown, but whose values are secret, in any case."""

_HARMLESS_OPTION = (
    r"(?:scheme|region|endpoint_override|allow_bucket_creation|allow_bucket_deletion|allow_delayed_open|"
    r"check_directory_existence_before_creation|force_virtual_addressing|tls_ca_file_path|tls_ca_dir_path|"
    r"tls_verify_certificates|smart_defaults|retry_limit_seconds|project_id|replication|buffer_size|"
    r"default_block_size|kerb_ticket|height|width)"
)
"""Names of options of pyarrow's stores and of synthetic images: those without secrets."""

_OPTION = rf"(?:{_SECRET_OPTION}|{_HARMLESS_OPTION})="
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://", re.A)
_OPTIONS_BEGIN = re.compile(rf"\?(?=(?:[\w.-]+=[^?&@]*&)*{_OPTION})", re.I | re.A)
_NEXT_OPTION = re.compile(rf"&(?={_OPTION})", re.I | re.A)
_ANY_OPTION = re.compile(rf"[&?](?=[\w.-]+=|{re.escape(HIDDEN)}(?:&|$))|&+$", re.A)
_IS_SECRET = re.compile(_SECRET_OPTION, re.I | re.A)
_IS_HARMLESS = re.compile(_HARMLESS_OPTION, re.I | re.A)
_HOST_AND_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]*\]|[^/?#:@]*)(?::\d{1,5})?(?=[/?#]|$)", re.A)
_STRAY_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
_PLAIN = re.compile(r"[\w.:/\[\]-]*", re.A)
"""An option's value that can hold no part of a secret that was cut in the wrong place."""


@dataclass(frozen=True)
class Place:
    """A place that was parsed; ``user``, ``password`` and options are decoded, the rest stands as it was written."""

    text: str
    scheme: str = ""
    """In lower case; empty: a local path."""
    raw_user: str | None = None
    raw_password: str | None = None
    host: str = ""
    """With its port; the bucket in an object store."""
    path: str = ""
    """Begins with ``/`` unless it is empty; a local path as it is."""
    query: str | None = None
    """The options with their ``&``; None: there is no ``?``."""

    @property
    def is_uri(self) -> bool:
        return bool(self.scheme)

    @property
    def user(self) -> str | None:
        return None if self.raw_user is None else decoded(self.raw_user)

    @property
    def password(self) -> str | None:
        return None if self.raw_password is None else decoded(self.raw_password)

    @cached_property
    def raw_options(self) -> tuple[tuple[str, str | None], ...]:
        """Names and values in their order; a value is None where there is no ``=``."""
        found: list[tuple[str, str | None]] = []
        left = self.query or ""
        while left:
            name, equals, value = left.partition("=")
            if "&" in name:
                name, _, left = left.partition("&")
                found.append((name, None))
                continue
            end = (_NEXT_OPTION if _IS_SECRET.fullmatch(name) else _ANY_OPTION).search(value)
            left = value[end.end() :] if end else ""
            found.append((name, (value[: end.start()] if end else value) if equals else None))
        return tuple(each for each in found if each != ("", None))

    @property
    def options(self) -> dict[str, str]:
        """Values by name, decoded; those without a value are left out."""
        return {name: decoded(value) for name, value in self.raw_options if value is not None}

    @property
    def secrets(self) -> list[str]:
        """What may be shown nowhere, as it was written; users are among them where they are no short names."""
        users = [] if self._names_its_user or len(self.raw_user or "") < _ACCESS_KEY else [self.raw_user]
        options = [
            value
            for name, value in self.raw_options
            if value
            and not self._is_harmless(name, value)
            # Of options that nobody knows, short values are words that other texts need.
            and (_IS_SECRET.fullmatch(name) or len(value) >= _ACCESS_KEY)
        ]
        half = [f"{self.host}{self.path}"] if self._may_be_half else []
        return [each for each in (*users, self.raw_password, *options, *half) if each and each != HIDDEN]

    @property
    def is_hidden(self) -> bool:
        """Whether it was copied from what is shown, so that its credentials are lost."""
        return HIDDEN in (self.raw_user, self.raw_password, *chain.from_iterable(self.raw_options))

    @property
    def has_credentials(self) -> bool:
        """Whether it holds any, or what may be some."""
        if self._may_be_half or (self.raw_user is not None and not self._names_its_user):
            return True
        return not all(self._is_harmless(name, value) for name, value in self.raw_options)

    @property
    def shown(self) -> str:
        """What may be printed: the text itself, with HIDDEN for every secret."""
        if not self.has_credentials:
            return self.text
        # One HIDDEN for a run of unknown options, which may be a single secret with & in it.
        options = "&".join(option for option, _ in groupby(starmap(self._shown_option, self.raw_options)))
        where = HIDDEN if self._may_be_half else f"{self._user_of(HIDDEN)}{self.host}{self.path}"
        return f"{self._begin}{where}" + ("" if self.query is None else f"?{options}")

    @property
    def bare(self) -> str:
        """What may be stored: the same place without its credentials, so that it is opened with those of a reader."""
        if not self.has_credentials:
            return self.text
        kept = [f"{name}={value}" for name, value in self.raw_options if self._is_harmless(name, value)]
        where = HIDDEN if self._may_be_half else f"{self._user_of('')}{self.host}{self.path}"
        return f"{self._begin}{where}" + (f"?{'&'.join(kept)}" if kept else "")

    @property
    def canonical(self) -> Place:
        """The same place with all of its credentials and options percent-encoded, which every other parser takes."""
        if not self.is_uri:
            return self
        options = "&".join(
            name if value is None else f"{name}={quote(decoded(value), safe='/:')}" for name, value in self.raw_options
        )
        user = self.user
        credentials = "" if user is None else quote(user, safe="")
        if self.password is not None:
            credentials += f":{quote(self.password, safe='')}"
        before = f"{self._begin}{credentials}@" if user is not None else self._begin
        return parse(f"{before}{self.host}{_encoded(self.path)}" + (f"?{options}" if self.query is not None else ""))

    @cached_property
    def around(self) -> tuple[str, str]:
        """What stands before and behind the percent-encoded path (bucket and key) of every URI in the same store."""
        same = self.canonical
        head, tail = same.text.partition("?")[::2] if same.query is not None else (same.text, "")
        return head.removesuffix(f"{same.host}{same.path}"), f"?{tail}" if tail else ""

    def below(self, name: str) -> str:
        """The place of ``name`` in this directory."""
        if not self.is_uri:
            return f"{self.text.rstrip('/')}/{name}"
        return self.with_path(f"{self.path.rstrip('/')}/{quote(name)}")

    def with_path(self, path: str) -> str:
        """The same, credentials and options as well, with another path as a URI writes it (or a local one)."""
        if not self.is_uri:
            return path
        tail = "" if self.query is None else f"?{self.query}"
        return self.text.removesuffix(f"{self.path}{tail}") + path + tail

    @property
    def _begin(self) -> str:
        return self.text[: len(self.scheme) + len("://")]

    @property
    def _names_its_user(self) -> bool:
        """Whether the user is only a name: pyarrow has no credentials there, and it is needed to open the place."""
        if self.scheme in ("gs", "gcs"):
            return self.raw_user == "anonymous" and not self.raw_password
        return self.scheme in _NAMED_USERS and self.raw_password is None

    @property
    def _may_be_half(self) -> bool:
        """Whether host and path may be the first half of a secret."""
        if self.scheme == "" or self.raw_user is not None or ":" not in self.host:
            return False
        port = _HOST_AND_PORT.fullmatch(self.host)
        return (
            port is None or self.scheme in _BUCKETS or (self.scheme not in _NAMED_USERS and "@" in (self.query or ""))
        )

    def _user_of(self, hidden: str) -> str:
        if self.raw_user is None:
            return ""
        user = self.raw_user if self._names_its_user else hidden
        return f"{user}@" if user else ""

    def _is_harmless(self, name: str, value: str | None) -> bool:
        known = _IS_HARMLESS.fullmatch(name) or (name == "user" and self.scheme in _NAMED_USERS)
        return bool(known and value is not None and _PLAIN.fullmatch(decoded(value)))

    def _shown_option(self, name: str, value: str | None) -> str:
        if self._is_harmless(name, value):
            return f"{name}={value}"
        named = value is not None and (_IS_SECRET.fullmatch(name) or _IS_HARMLESS.fullmatch(name))
        return f"{name}={HIDDEN}" if named else HIDDEN


_ACCESS_KEY = 8
"""Characters of the shortest one: S3 takes 16 to 128, and users of fewer than this are names."""

_BUCKETS = "s3", "gs", "gcs"
_NAMED_USERS = "hdfs", "viewfs"


def parse(text: str) -> Place:
    """What a local path or URI consists of; see the module for its grammar. There is no text that is none."""
    begin = _SCHEME.match(text)
    if begin is None:
        return Place(text, path=text)
    scheme, rest = begin[1].lower(), text[begin.end() :]
    options = _OPTIONS_BEGIN.search(rest)
    user, password, start = _credentials(scheme, rest[: options.start()] if options else rest)
    where, mark, query = rest[start:].partition("?")
    host, slash, path = where.partition("/")
    return Place(text, scheme, user, password, host, slash + path, query if mark else None)


def is_uri(text: str) -> bool:
    """Whether it is no local path."""
    return _SCHEME.match(text) is not None


def decoded(text: str) -> str:
    """The text that a part of a URI stands for; the part itself where that would be no text."""
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        return text


def _credentials(scheme: str, head: str) -> tuple[str | None, str | None, int]:
    """User and password in what stands between ``://`` and the options, and where they end."""
    before, at, _ = head.rpartition("@")
    user, colon, password = before.partition(":")
    has_port = scheme in _NAMED_USERS and _HOST_AND_PORT.match(head.partition("@")[2] if "@" in user else head)
    if at and colon and not re.search("[/?#]", user) and not has_port:
        return user, password, len(before) + 1
    authority = re.split("[/?#]", head, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    return (user, None, len(user) + 1) if at else (None, None, 0)


def _encoded(path: str) -> str:
    """The path of a URI with everything percent-encoded that is no letter of it."""
    return quote(_STRAY_PERCENT.sub("%25", path), safe="/%:=&+,;~!$'()*[]")
