"""Checkpoints and metrics, with digests that are right."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import pytest
import torch
from damage import rejson, remark, reseal
from safetensors.torch import load, save

from halo_ray.storage import Storage
from halo_ray.verification.findings import Findings

Expect = Callable[[str, str], Findings]

AT = "rounds/002/checkpoint"


def rewrite(copy: Storage, file: str, data: bytes) -> None:
    """Another file of a checkpoint, with a digest that is right."""
    copy.write(f"{AT}/{file}", data)
    digest = hashlib.sha256(data).hexdigest()
    reseal(copy, f"{AT}/training.json", lambda state: state["files"].update({file: digest}))
    remark(copy, f"{AT}/{file}")


def test_weights_are_finite(copy: Storage, expect: Expect) -> None:
    weights = load(copy.read(f"{AT}/model.safetensors"))
    name = next(key for key, value in weights.items() if value.is_floating_point())
    weights[name].view(-1)[0] = torch.nan
    rewrite(copy, "model.safetensors", save(weights))
    expect(f"{AT}/model.safetensors", f"has NaN or infinite weights, first in {name}")


def test_weights_belong_to_their_network(copy: Storage, expect: Expect) -> None:
    weights = load(copy.read(f"{AT}/model.safetensors"))
    weights.popitem()
    rewrite(copy, "model.safetensors", save(weights))
    expect(f"{AT}/model.safetensors", "are not the weights of the network in model.json")
    rewrite(copy, "model.json", b"{}")
    expect(AT, "cannot be loaded")
    rewrite(copy, "optimizer.pt", b"PK nonsense")
    expect(f"{AT}/optimizer.pt", "cannot be loaded")


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("pixels", 7, "pixels is 7, counted again it is"),
        ("regions", 7, "regions is 7, counted again it is"),
        ("images_touched", 7, "images_touched is 7, counted again it is"),
        ("budget_spent", 0.5, "budget_spent is 0.5, counted again it is"),
        ("checkpoint", "rounds/001/checkpoint", "checkpoint is rounds/001/checkpoint, counted again it is"),
        ("miou", 0.99, "miou is 0.99, counted again it is"),
        ("control_miou", None, "control_miou is None, counted again it is"),
        ("seconds", {"score": 1e6}, "score took 1000000.0 s, its marker says"),
    ],
)
def test_metrics_are_counted_again(key: str, value: object, what: str, copy: Storage, expect: Expect) -> None:
    name = "rounds/002/metrics.json"
    rejson(copy, name, lambda record: record.update({key: value}))
    expect(name, f"differs from stages/rounds/002/record.json in {key}")
    # Wherever it stands.
    reseal(copy, "stages/rounds/002/record.json", lambda marker: marker["result"].update({key: value}))
    expect(name, what)
    expect("metrics.jsonl", "record 2 is not that of rounds/002")


def test_an_evaluation_agrees_with_itself(copy: Storage, expect: Expect) -> None:
    reseal(copy, "stages/rounds/001/evaluate.json", lambda marker: marker["result"][0].update(miou=0.9))
    expect("rounds/001/metrics.json", "miou 0.9 is not the mean of its iou")


def test_gathered_records_are_those_of_the_rounds(copy: Storage, expect: Expect) -> None:
    lines = copy.read("metrics.jsonl").splitlines(keepends=True)
    copy.write("metrics.jsonl", b"".join(lines[:2]))
    expect("metrics.jsonl", "record 2 is not that of rounds/002")
    more = {**json.loads(lines[2]), "round": 3}
    copy.write("metrics.jsonl", b"".join([*lines, *2 * [json.dumps(more).encode() + b"\n"]]))
    expect("metrics.jsonl", "has 5 records, 3 rounds are done")
    rejson(copy, "checkpoints.json", lambda named: named["last"].update(round=1))
    expect("checkpoints.json", "does not name the best and the last model")
