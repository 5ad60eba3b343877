"""Damage to networks and their weights: a sentence that names the file, and no code in it is run.

Cases: 23 descriptions of networks and 10 that nothing can be predicted with, 3 missing files, 120 random damages of a
checkpoint and 120 of weights, 9 ways to pickle code, 24 files of no weights: 309.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_input import DAMAGES, MANY_CASES, SECONDS, Payload, assert_one_sentence, damaged, examples, refused
from hypothesis import given
from hypothesis import strategies as st

from halo_ray.checkpoint import load_model, load_optimizer_state, load_state, write_checkpoint
from halo_ray.errors import InputError
from halo_ray.execution import ExecutionConfig
from halo_ray.models.build import ModelConfig, build_model, describe_model
from halo_ray.models.pretrained import load_pretrained
from halo_ray.predict_images import predict_images
from halo_ray.storage import Storage

pytestmark = pytest.mark.timeout(SECONDS)


@pytest.fixture(scope="module")
def handed_on(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without its state, which no digest protects."""
    folder, config = tmp_path_factory.mktemp("handed on"), ModelConfig(embedding=8, decoder_width=16)
    model = build_model(config, 3)
    described = describe_model(config, 3, model) | {"class_names": ["a", "b", "c"], "input_size": [64, 96]}
    write_checkpoint(Storage(str(folder)), "", described, model, {"state": torch.zeros(3), "lr": [0.1]}, {})
    (folder / "training.json").unlink()
    return folder


DESCRIPTIONS: dict[str, Any] = {
    "a list": [], "a number": 3, "nothing": {}, "no model": {"model": None}, "text": "x",
    **{
        f"{key}={value!r}": (key, value)
        for key, value in (
            ("model", 3), ("model", {"curvature": -1}), ("model", {"colour": 1}), ("classes", "x"), ("classes", 10**9),
            ("classes", -1), ("classes", None), ("backbone", 3),
            ("backbone", {"model_type": "zzz"}), ("backbone", {"model_type": "resnet", "depths": "x"}),
            ("backbone", {"model_type": "resnet", "hidden_sizes": [1]}),
            ("backbone", {"model_type": "resnet", "layer_type": 3}),
            ("backbone", {"model_type": "resnet", "stage_names": [0]}), ("backbone", {}),
            ("backbone", {"model_type": "resnet", "_attn_implementation": "owner/repo"}),
            ("backbone", {"model_type": "resnet", "hidden_sizes": [10**9] * 4}),
            ("backbone", {"model_type": "detr", "backbone": "owner/repo", "use_pretrained_backbone": True}),
            ("model", {"geometry": "flat"}),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("what", DESCRIPTIONS)
def test_a_description_of_no_network(handed_on: Path, tmp_path: Path, what: str) -> None:
    shutil.copytree(handed_on, tmp_path / "c")
    description, changed = json.loads((tmp_path / "c/model.json").read_text()), DESCRIPTIONS[what]
    changed = {**description, changed[0]: changed[1]} if isinstance(changed, tuple) else changed
    (tmp_path / "c/model.json").write_text(json.dumps(changed))
    refused(lambda: load_model(Storage(str(tmp_path)), "c"), f"{tmp_path}/c")
    start = ModelConfig(embedding=8, decoder_width=16, pretrained=str(tmp_path / "c"))
    refused(lambda: build_model(start, 3), "model.pretrained", str(tmp_path / "c"))


@pytest.mark.parametrize("file", ["model.json", "model.safetensors", "optimizer.pt"])
def test_a_checkpoint_that_lacks_a_file(handed_on: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(handed_on, tmp_path / "c")
    (tmp_path / "c" / file).unlink()
    read = load_optimizer_state if file == "optimizer.pt" else load_model
    refused(lambda: read(Storage(str(tmp_path)), "c"), f"{tmp_path}/c")
    assert load_state(Storage(str(tmp_path)), "c") is None


@MANY_CASES
@pytest.mark.parametrize("file", ["model.json", "optimizer.pt"])
def test_a_damaged_checkpoint_is_loaded_or_refused(handed_on: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(handed_on, tmp_path / "c")
    data, refusals = (handed_on / file).read_bytes(), 0

    @examples(60)
    @given(damage=st.sampled_from(DAMAGES), seed=st.integers(0, 10**6))
    def load(damage: str, seed: int) -> None:
        nonlocal refusals
        (tmp_path / "c" / file).write_bytes(damaged(data, damage, seed))
        try:
            (load_optimizer_state if file == "optimizer.pt" else load_model)(Storage(str(tmp_path)), "c")
        except InputError as error:
            assert_one_sentence(str(error), f"{tmp_path}/c")
            refusals += 1

    load()
    assert refusals >= 20


@pytest.fixture(scope="module")
def network() -> Any:
    return build_model(ModelConfig(embedding=8, decoder_width=16), 3)


@pytest.mark.parametrize("way", ["zip", "legacy", "bare"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickled_code_is_never_run(handed_on: Path, tmp_path: Path, network: Any, protocol: int, way: str) -> None:
    made, tree = tmp_path / "made", {}
    for place in ("conv1.weight", "state_dict"):
        tree[place] = Payload(str(made))
    buffer = io.BytesIO()
    if way == "bare":
        pickle.dump(tree, buffer, protocol)
    else:
        torch.save(tree, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=way == "zip")
    file = tmp_path / "weights.pth"
    file.write_bytes(buffer.getvalue())
    refused(lambda: load_pretrained(network, str(file)), "model.pretrained", str(file))
    shutil.copytree(handed_on, tmp_path / "c")
    (tmp_path / "c/optimizer.pt").write_bytes(buffer.getvalue())
    refused(lambda: load_optimizer_state(Storage(str(tmp_path)), "c"), f"{tmp_path}/c")
    assert not made.exists()
    pickle.loads(pickle.dumps(tree["state_dict"]))  # by whoever would run it, it is run
    assert made.exists()


TREES: dict[str, Any] = {
    "empty": {}, "list": [1], "number": 3, "numbered": {1: 2}, "empty state": {"state_dict": {}},
    "numbered state": {"state_dict": {1: 2}}, "half": {"state_dict": {"feature_extractor.x": 1}},
    "numbers for tensors": {"conv1.weight": 3, "layer1.0.conv1.weight": "x"},
    "numbers in halves": {"feature_extractor": {"a": 1}, "classifier": {"b": 2}},
    "numbered halves": {"feature_extractor": {1: 1}, "classifier": {2: 2}},
    "tensors of no shape": {"conv1.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.zeros(1)},
    "a running variance that is a word": {"conv1.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.zeros(1),
                                          "bn.running_var": "x"},
}  # fmt: skip


@pytest.mark.parametrize("what", TREES)
def test_weights_of_nothing(tmp_path: Path, network: Any, what: str) -> None:
    file = tmp_path / "weights.pth"
    torch.save(TREES[what], file)
    refused(lambda: load_pretrained(network, str(file)), "model.pretrained", str(file))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_no_weights(tmp_path: Path, network: Any, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    for data in (b"", b"<html>", b"PK\x03\x04", bytes(1000), b"\x80\x02}q\x00.", b"\xff" * 9):
        file.write_bytes(data)
        refused(lambda: load_pretrained(network, str(file)), "model.pretrained", str(file))


@MANY_CASES
@pytest.mark.parametrize("legacy", [True, False])
def test_damaged_weights_are_refused(tmp_path: Path, network: Any, legacy: bool) -> None:
    tree = {"conv1.weight": torch.zeros(3), "layer1.0.conv1.weight": torch.zeros(3), "bn1.bias": Payload("/nowhere/x")}
    buffer, file = io.BytesIO(), tmp_path / "weights.pth"
    torch.save(tree, buffer, _use_new_zipfile_serialization=not legacy)

    @examples(60)
    @given(damage=st.sampled_from(DAMAGES), seed=st.integers(0, 10**6))
    def load(damage: str, seed: int) -> None:
        file.write_bytes(damaged(buffer.getvalue(), damage, seed))
        refused(lambda: load_pretrained(network, str(file)), "model.pretrained", str(file))

    load()


@pytest.mark.parametrize(
    ("key", "value"),
    [("input_size", "x"), ("input_size", [0, 0]), ("input_size", [64]), ("input_size", None), ("class_names", 3),
     ("class_names", ["a"]), ("class_names", ["a", "a", "b"]), ("colors", [[1]]), ("colors", 3), ("colors", None)],
)  # fmt: skip
@pytest.mark.usefixtures("cluster")
def test_a_description_that_nothing_can_be_predicted_with(
    handed_on: Path, tmp_path: Path, dataset: Path, key: str, value: Any
) -> None:
    shutil.copytree(handed_on, tmp_path / "c")
    description = json.loads((tmp_path / "c/model.json").read_text()) | {key: value}
    (tmp_path / "c/model.json").write_text(json.dumps(description))
    images, here = str(dataset / "night/images"), ExecutionConfig(num_workers=0, max_actors=0)
    refused(lambda: predict_images(str(tmp_path / "c"), images, str(tmp_path / "out"), here), f"{tmp_path}/c")
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")
