"""Which software an experiment ran on."""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("halo_ray", "torch", "geoopt", "ray", "transformers", "numpy", "pyarrow", "pillow")


def versions() -> dict[str, str]:
    """Of Python and of the installed packages that numbers depend on."""
    return dict(_versions())


@cache  # looked up in files, for every marker
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
