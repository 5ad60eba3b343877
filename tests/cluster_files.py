"""The files in cluster/, read, and what they all refer to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from halo_ray.config import parse_config

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
PRESETS = ROOT / "jobs" / "presets"
CLOUDS = {"aws": "s3://BUCKET", "gcp": "gs://BUCKET"}
KUBERAY = ("kuberay-rayjob", "kuberay-raycluster")
VERSION = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]  # type: ignore[index]
IMAGE = f"REGISTRY/halo_ray:{VERSION}-cuda"


def load(name: str) -> Any:
    return yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())


def pinned(package: str) -> str:
    """The version in constraints.txt."""
    found = re.search(rf"^{package}==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found
    return found[1]


def schema_errors(tree: Any, schema: Any) -> list[str]:
    """What of a file is not as its schema, itself a valid one, wants it."""
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    return [error.message for error in validator(schema).iter_errors(tree)]


def ray_cluster(name: str) -> Any:
    spec = load(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(name: str) -> list[Any]:
    cluster = ray_cluster(name)
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def parse(arguments: list[str]) -> Any:
    start = arguments.index("jobs/run_al.py") + 1 if "jobs/run_al.py" in arguments else 0
    return parse_config([word for word in arguments[start:] if word != "--plan"], PRESETS)
