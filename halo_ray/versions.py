"""Which software an experiment ran on."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("halo_ray", "torch", "geoopt", "ray", "transformers", "numpy", "pyarrow", "pillow")


def versions() -> dict[str, str]:
    """Of Python and of the installed packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
