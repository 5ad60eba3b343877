"""Several names of one file: which of them counts, and what two splits share."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable
from itertools import pairwise

import pyarrow as pa

from halo_ray.data.local import file_identity
from halo_ray.errors import InputError
from halo_ray.place import is_uri
from halo_ray.secret import redacted

NAMED_ALIASES = 5
"""So many of the names that are left out are printed."""


def identity(uri: str) -> Hashable | None:
    """What all names of one image have in common; None for what is no file.

    Args:
        uri: as a manifest has it: a local path, or a URI whose credentials and path are percent-encoded. Credentials
            and options, such as the size of a rendered scene, are no part of what it names.
    """
    if not is_uri(uri):
        return file_identity(uri)
    scheme, _, rest = uri.partition("://")
    return {"gcs": "gs"}.get(scheme, scheme), rest.partition("?")[0].rpartition("@")[2]


def preferred(uris: Iterable[str]) -> str:
    """The one of several names of a file that counts: the first of those with the fewest links in them."""
    return min(uris, key=lambda uri: (_links(uri), uri))


def one_name_each(table: pa.Table, key: str = "") -> pa.Table:
    """The rows of a manifest without those whose image is another row's file; says which they are.

    A name that has a label goes before one that has none; see preferred for the rest.

    Args:
        key: of the split, for what is printed; empty: there are no splits.

    Raises:
        InputError: two different images have the same id.
    """
    names: dict[Hashable, list[int]] = {}
    rows = table.select(["image_id", "image_uri", "label_uri"]).to_pylist()
    for place, row in enumerate(rows):
        if (found := identity(row["image_uri"])) is not None:
            names.setdefault(found, []).append(place)
    kept: dict[int, int] = {}
    for places in names.values():
        if len(places) > 1:
            labelled = [place for place in places if _has_label(rows[place])] or places
            chosen = preferred(rows[place]["image_uri"] for place in labelled)
            (first, *_) = (place for place in labelled if rows[place]["image_uri"] == chosen)
            kept |= {place: first for place in places if place != first}
    if kept:
        _say([(rows[other], rows[first]) for other, first in sorted(kept.items())], key)
        table = table.take([place for place in range(len(rows)) if place not in kept])
        rows = [row for place, row in enumerate(rows) if place not in kept]
    for one, other in pairwise(sorted(rows, key=lambda row: (row["image_id"], row["image_uri"]))):
        if one["image_id"] == other["image_id"]:
            raise InputError(
                f"{one['image_uri']} and {other['image_uri']} have the same image id {one['image_id']!r}: rename one"
            )
    return table


def check_apart(validation: pa.Table, others: dict[str, pa.Table]) -> None:
    """Raises InputError where an image of the validation is one of another split, whatever it is called there."""
    held = {identity(uri): uri for uri in validation["image_uri"].to_pylist()}
    held.pop(None, None)
    for split, table in others.items():
        for uri in table["image_uri"].to_pylist():
            if (here := held.get(identity(uri))) is not None:
                there = "" if here == uri else f", where it is {uri}"
                raise InputError(
                    f"data.validation shares image {here} with data.{split}{there}: validation must not be trained on"
                )


def _links(uri: str) -> int:
    """How many parts of a local path are links."""
    parts = uri.split("/")
    return 0 if is_uri(uri) else sum(os.path.islink("/".join(parts[:count])) for count in range(2, len(parts) + 1))


def _has_label(row: dict[str, str | None]) -> bool:
    label = row["label_uri"]
    return label is not None and (is_uri(label) or os.path.exists(label))


def _say(pairs: list[tuple[dict[str, str], dict[str, str]]], key: str) -> None:
    named = ", ".join(f"{other['image_uri']} (is {first['image_uri']})" for other, first in pairs[:NAMED_ALIASES])
    more = f" and {len(pairs) - NAMED_ALIASES} more" if len(pairs) > NAMED_ALIASES else ""
    said = f"left out as other names of images that are listed ({len(pairs)}): {named}{more}"
    print(redacted(f"{key}: {said}" if key else said), flush=True)
