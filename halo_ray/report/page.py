"""The page of a report: HTML with all pictures in it, that asks no network for anything."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from halo_ray.report.chapters import Chapter
from halo_ray.versions import versions

TEMPLATE = "page.html"


@dataclass(frozen=True)
class Section:
    """One experiment."""

    title: str
    summary: str
    chapters: list[Chapter]
    config: str
    """Its config.yaml, without credentials."""
    versions: dict[str, str]
    """Of the software that its last round ran on; empty where an earlier version recorded it."""


def render(title: str, compared: Chapter, sections: Sequence[Section], pictures: dict[str, bytes]) -> bytes:
    """The page.

    Args:
        compared: what all experiments gave, above everything else.
        pictures: PNG files by the name of the Picture that they are of: of ``compared``, then of the sections, whose
            names are preceded by the number of the section and a dash where there are several.
    """
    environment = Environment(
        loader=PackageLoader("halo_ray.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    data = {name: base64.b64encode(png).decode() for name, png in pictures.items()}
    text = environment.get_template(TEMPLATE).render(
        title=title, compared=compared, sections=sections, pictures=data, own=versions()
    )
    return text.encode()
