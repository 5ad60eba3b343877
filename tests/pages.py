"""Parts of the project's pages: their sections, and what they show as it was printed."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def section(file: Path, heading: str) -> str:
    """What stands below a heading of the second level."""
    own = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", file.read_text(), re.DOTALL | re.MULTILINE)
    assert own, f"{file.name} has no section {heading!r}"
    return own[1]


def blocks(text: str) -> list[str]:
    """Fenced blocks without a language."""
    return re.findall(r"^```\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)
