"""Numbers on Ray's metrics endpoint (Prometheus), as ray_halo_ray_NAME."""

from __future__ import annotations

import string
from collections.abc import Mapping
from urllib.parse import quote

from ray.util.metrics import Gauge

PROGRESS = {
    "round": "The last round that is done; 0 before any purchase.",
    "progress": "Share of the stage that is done, from 0 to 1.",
    "pixels_scored": "Pool pixels that the round's scoring pass has scored so far, to within an image.",
    "threshold": "Score of the last region that the round bought.",
    "pixels_bought": "Pixels bought in all rounds so far.",
    "miou": "Mean IoU on the validation split after the round, from 0 to 1.",
}
"""What a whole experiment shows; tagged with the experiment and the stage."""


class Gauges:
    """Gauges of an experiment, set from the process that makes them.

    Args:
        descriptions: by their names after halo_ray_.
        experiment: URI of its storage, a tag of all of them.
        tags: further tags that they have.
    """

    def __init__(self, descriptions: Mapping[str, str], experiment: str, tags: tuple[str, ...] = ("stage",)) -> None:
        self._experiment, self._tags = experiment, tags
        keys = ("experiment", *tags)
        self._gauges = {name: Gauge(f"halo_ray_{name}", text, tag_keys=keys) for name, text in descriptions.items()}

    def set(self, name: str, value: float, **tags: str) -> None:
        """Shows ``value``; a tag that is not given is empty."""
        own = {"experiment": self._experiment, **{key: tags.get(key, "") for key in self._tags}}
        # Ray takes no others than ASCII characters.
        self._gauges[name].set(value, tags={key: quote(tag, string.printable) for key, tag in own.items()})
