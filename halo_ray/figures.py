"""Figures as PNG files, in colours that colour-blind readers can tell apart."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

from halo_ray.storage import Storage

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's."""

MARKERS = "os^Dv<>"

LINES = ("-", "--", ":", "-.")

DPI = 110


def as_png(figure: Figure, metadata: dict[str, str] | None = None) -> bytes:
    """The figure as a PNG file, which holds ``metadata`` as texts."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def save_figure(figure: Figure, storage: Storage, name: str, metadata: dict[str, str] | None = None) -> str:
    """Writes a figure as PNG and returns its name."""
    storage.write(name, as_png(figure, metadata))
    return name
