"""Keep credentials out of what is shown and stored."""

from __future__ import annotations

import re

HIDDEN = "***"

_USER = re.compile(r"(?<=://)(?:[^/?#@\s]*|[^/:?#@\s]+:[^?#@\s]*)(?=@)")
"""Also where a slash in the password was not percent-encoded."""
_OPTION = re.compile(r"(?i)(?<=[?&])([\w-]*(?:key|secret|token|password|credential|signature)[\w-]*=)[^&\s'\")]+")


def redacted(text: str) -> str:
    """The text without what stands for user and password in its URIs, or for a key or token among their options."""
    return _OPTION.sub(rf"\1{HIDDEN}", _USER.sub(HIDDEN, text))
