"""URIs of a manifest without credentials, for millions of rows at once."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from halo_ray.secret import stored

_SCHEME = "[A-Za-z][A-Za-z0-9+.-]+://"
_SUSPECT = rf"(?s)^{_SCHEME}(.*[@?]|[^/?#]*:)"
"""Whatever may have credentials: all with options, and a host with a colon too."""
_ENCODED = rf"^(?P<before>{_SCHEME}(?:[^/?#@]*@)?)(?P<path>[^/:?#@]+(?:/[^?#@]*)?)(?P<after>(?:[?][^?#@]*)?)$"
"""A URI that means the same to every parser, as Root.path_uri writes it."""
_PATH, _END = "path/of/all", "\0"


def without_credentials(uris: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column of a manifest as it may be stored (see secret.stored); local paths and nulls stay as they are."""
    suspect = pc.fill_null(pc.match_substring_regex(uris, _SUSPECT), False)
    if not pc.any(suspect).as_py():
        return uris
    return pc.if_else(suspect, pa.chunked_array([_bare(chunk) for chunk in uris.chunks], pa.string()), uris)


def _bare(uris: pa.StringArray) -> pa.StringArray:
    """The column without credentials; a part of it that no manifest of ours has is parsed row by row."""
    parts = pc.extract_regex(uris, _ENCODED)
    before, path, after = (pc.struct_field(parts, name) for name in ("before", "path", "after"))
    # Credentials and options are those of the root, so there are few that differ.
    around = pc.binary_join_element_wise(before, after, _END).dictionary_encode()
    kept = [stored(each.replace(_END, _PATH)).partition(_PATH) for each in around.dictionary.to_pylist()]
    begins, ends = (pa.array([each[place] for each in kept], pa.string()).take(around.indices) for place in (0, 2))
    glued = pc.binary_join_element_wise(begins, path, ends, "")
    others = pc.and_(pc.is_null(glued), pc.is_valid(uris))
    alone = [stored(uri) for uri in uris.filter(others).to_pylist()]
    return pc.replace_with_mask(glued, others, pa.array(alone, pa.string()))
