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


def as_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def save_figure(figure: Figure, storage: Storage, name: str) -> str:
    """Writes a figure as PNG and returns its name."""
    storage.write(name, as_png(figure))
    return name
