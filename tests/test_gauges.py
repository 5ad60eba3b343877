"""Numbers on Ray's metrics endpoint: what is set arrives there, under tags that everyone can read."""

from __future__ import annotations

import re
import time
import urllib.request
from urllib.parse import unquote

import pytest
import ray

from halo_ray.gauges import PROGRESS, Gauges

pytestmark = pytest.mark.usefixtures("cluster")

LINE = re.compile(r"(?P<name>\w+)\{(?P<tags>.*)\} (?P<value>\S+)")
TAG = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Shown = dict[tuple[str, str, str], tuple[float, dict[str, str]]]


def shown(experiments: list[str]) -> Shown:
    """What the endpoint has of the experiments, by gauge, experiment and stage; with all tags."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = [LINE.fullmatch(line) for line in answer.read().decode().splitlines()]
    found: Shown = {}
    for line in filter(None, lines):
        tags = {name: unquote(re.sub(r"\\(.)", r"\1", value)) for name, value in TAG.findall(line["tags"])}
        if tags.get("experiment") in experiments:
            found[line["name"], tags["experiment"], tags.get("stage", "")] = float(line["value"]), tags
    return found


PLAIN, FOREIGN, QUOTED = "/runs/gauges", "s3://straßen/東京 köln?region=x", '/runs/a "b" 100%'


def set_all() -> dict[tuple[str, str, str], float]:
    """Sets gauges of three experiments; what must be shown then."""
    wanted: dict[tuple[str, str, str], float] = {}
    for number, name in enumerate((PLAIN, FOREIGN, QUOTED)):
        gauges = Gauges(PROGRESS, name)
        gauges.set("round", 7, stage="rounds/001/record")
        for gauge, value, stage in (
            ("round", number, "rounds/001/record"),
            ("miou", 0.5 + number / 8, "rounds/001/record"),
            ("progress", 0.25, "rounds/001/score"),
            ("progress", 0.75, "rounds/002/score"),
        ):
            gauges.set(gauge, value, stage=stage)
            wanted[f"ray_halo_ray_{gauge}", name, stage] = value
    Gauges(PROGRESS, PLAIN).set("threshold", -1.5)
    own = Gauges({"test_of_class": "By class."}, PLAIN, tags=("stage", "class"))
    own.set("test_of_class", 3.0, **{"class": "Straße", "stage": "pretrain"})
    return wanted | {
        ("ray_halo_ray_threshold", PLAIN, ""): -1.5,
        ("ray_halo_ray_test_of_class", PLAIN, "pretrain"): 3.0,
    }


def test_what_was_set_last_is_on_the_endpoint_under_its_tags() -> None:
    wanted, deadline = set_all(), time.monotonic() + 90
    values: dict[tuple[str, str, str], float] = {}
    while values != wanted and time.monotonic() < deadline:
        time.sleep(1)
        found = shown([PLAIN, FOREIGN, QUOTED])
        values = {key: value for key, (value, _) in found.items()}
    assert values == wanted
    _, tags = found["ray_halo_ray_test_of_class", PLAIN, "pretrain"]
    assert tags["class"] == "Straße"


def test_a_gauge_that_is_not_described_cannot_be_set() -> None:
    with pytest.raises(KeyError):
        Gauges(PROGRESS, "/runs/gauges").set("rounds", 1.0)
