"""Damage to what an experiment has stored: a sentence that names it, or the same picks byte for byte; never others.

Cases: 9 kinds of file with 30 random damages each (270), 15 exchanges of files, 28 damaged experiments that are resumed
and 4 through the job, 20 damaged configurations; 18 descriptions of networks, 3 missing files, 120 random damages of a
checkpoint and 120 of weights, 9 ways to pickle code, 24 files of no weights, 34 of other kinds: 665.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from bad_input import (
    DAMAGES,
    MANY_CASES,
    SECONDS,
    Payload,
    assert_one_sentence,
    damaged,
    examples,
    refused,
    same_or_refused,
)
from hypothesis import given
from hypothesis import strategies as st
from small_experiments import small

import halo_ray.experiment
from halo_ray.annotations.ledger import Ledger
from halo_ray.candidates import candidate_files, read_candidates
from halo_ray.checkpoint import load_model, load_optimizer_state, load_state, write_checkpoint
from halo_ray.config import Config, config_from_yaml, config_to_yaml, identity
from halo_ray.data.inspection import bad_ids
from halo_ray.data.manifest import load_splits
from halo_ray.errors import InputError
from halo_ray.experiment import run_experiment
from halo_ray.lock import locked
from halo_ray.models.build import ModelConfig, build_model, describe_model
from halo_ray.models.pretrained import load_pretrained
from halo_ray.predict_images import predict_images
from halo_ray.results import read_metrics
from halo_ray.stages import Stages
from halo_ray.storage import Storage

pytestmark = pytest.mark.timeout(SECONDS)

LAST = "rounds/002"
SELECTION, LEDGER = f"{LAST}/selection.json", Ledger.file(2)


class StoppedError(Exception):
    """Enough was done: the last round's labels are bought."""


@contextmanager
def stopped_before_training(number: int) -> Iterator[None]:
    train = halo_ray.experiment.train

    def until(*args: Any, **how: Any) -> Any:
        if how.get("number") == number:
            raise StoppedError
        return train(*args, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(halo_ray.experiment, "train", until)
        yield


@pytest.fixture(scope="module")
def bought(cluster: None, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """An experiment that has bought the labels of its second round, and no more; leave its directory as it is."""
    config = small(dataset, tmp_path_factory.mktemp("bought") / "run")
    config = replace(config, training=replace(config.training, control=False))
    with stopped_before_training(2), pytest.raises(StoppedError):
        run_experiment(config)
    return config


@pytest.fixture
def copy(bought: Config, tmp_path: Path) -> Config:
    """The same in a directory of this test."""
    shutil.copytree(bought.output_dir, tmp_path / "run")
    return replace(bought, output_dir=str(tmp_path / "run"))


def only(directory: Path, pattern: str) -> str:
    """The name below ``directory`` of the first file that matches."""
    return str(min(directory.rglob(pattern)).relative_to(directory))


def _candidates(storage: Storage) -> Any:
    directory = Stages(storage).result(f"{LAST}/score")["candidates"]["random"]
    return [read_candidates(storage, file).to_pydict() for file in candidate_files(storage, directory)]


# A pattern of the file, and all that is read of it.
KINDS: dict[str, tuple[str, Callable[[Storage], Any]]] = {
    "ledger": ("rounds/001/annotations/ledger.parquet", lambda s: Ledger(s).read(2).to_pydict()),
    "checksum of a ledger": ("rounds/001/annotations/ledger.parquet.sha256", lambda s: Ledger(s).read(2).to_pydict()),
    "marker": ("stages/rounds/001/select.json", lambda s: Stages(s).result("rounds/001/select")),
    "selection": (SELECTION, lambda s: s.read_sealed(SELECTION)["counts"]),
    "plan": ("plan.json", lambda s: s.read_sealed("plan.json")["rounds"]),
    "manifest": ("manifests/pool.parquet", lambda s: load_splits(s).pool.to_pydict()),
    "candidates": (f"{LAST}/candidates/*/*/*.parquet", _candidates),
    "list of candidates": (f"{LAST}/candidates/*/*/_files.json", _candidates),
    "weights": (
        "rounds/001/checkpoint/model.safetensors",
        lambda s: {k: v.tolist() for k, v in load_model(s, "rounds/001/checkpoint").state_dict().items()},
    ),
}  # fmt: skip


@MANY_CASES
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_says_so_or_reads_as_it_was(bought: Config, tmp_path: Path, kind: str) -> None:
    pattern, read = KINDS[kind]
    shutil.copytree(bought.output_dir, tmp_path / "run")
    storage = Storage(str(tmp_path / "run"))
    file = next((tmp_path / "run").glob(pattern))
    whole, data, told = read(storage), file.read_bytes(), 0

    @examples(30)
    @given(damage=st.sampled_from(DAMAGES), seed=st.integers(0, 10**6))
    def damage_and_read(damage: str, seed: int) -> None:
        nonlocal told
        file.write_bytes(damaged(data, damage, seed))
        told += not same_or_refused(lambda: read(storage), whole, str(tmp_path / "run"))

    damage_and_read()
    assert told >= 10
    file.write_bytes(data)
    assert read(storage) == whole


EXCHANGES = [
    ("rounds/001/annotations/ledger.parquet", "rounds/002/annotations/ledger.parquet", "ledger"),
    ("rounds/001/annotations/ledger.parquet.sha256", "rounds/002/annotations/ledger.parquet.sha256", "ledger"),
    ("stages/rounds/001/select.json", "stages/rounds/002/select.json", "marker"),
    ("stages/rounds/001/select.json", "stages/rounds/001/score.json", "marker"),
    ("rounds/001/checkpoint/model.safetensors", "pretrain/checkpoint/model.safetensors", "weights"),
    ("rounds/001/checkpoint/training.json", "pretrain/checkpoint/training.json", "weights"),
    ("manifests/pool.parquet", "manifests/validation.parquet", "manifest"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other", "kind"), EXCHANGES)
@pytest.mark.parametrize("swap", [True, False])
def test_a_file_in_the_place_of_another(copy: Config, one: str, other: str, kind: str, swap: bool) -> None:
    root = Path(copy.output_dir)
    first, second = (root / one).read_bytes(), (root / other).read_bytes()
    assert first != second
    (root / one).write_bytes(second)
    if swap:
        (root / other).write_bytes(first)
    refused(lambda: KINDS[kind][1](Storage(copy.output_dir)), copy.output_dir)


def test_ledgers_exchanged_with_their_checksums(copy: Config) -> None:
    root = Path(copy.output_dir)
    for name in (Ledger.file(1), Ledger.checksum_file(1)):
        twin = root / name.replace("001", "002")
        data = (root / name).read_bytes()
        (root / name).write_bytes(twin.read_bytes())
        twin.write_bytes(data)
    refused(lambda: Ledger(Storage(copy.output_dir)).read(3), "ledger.parquet", "round 2")


def resume(config: Config) -> tuple[bytes, Any]:
    """The ledger of the last round and the counts of its selection, bought again."""
    with stopped_before_training(2), pytest.raises(StoppedError):
        run_experiment(config)
    storage = Storage(config.output_dir)
    return Path(config.output_dir, LEDGER).read_bytes(), storage.read_sealed(SELECTION)["counts"]


def forget(root: Path, *stages: str) -> None:
    """As if the run had died before those stages of the last round."""
    for stage in stages:
        (root / f"stages/{LAST}/{stage}.json").unlink()
    shutil.rmtree(root / LAST / "annotations")


RESUMED = [
    (pattern, damage)
    for pattern in (
        "config.yaml", "plan.json", "classes.json", "stages/pretrain.json", "stages/rounds/001/train.json",
        f"stages/{LAST}/score.json", "rounds/001/annotations/ledger.parquet", "manifests/pool.parquet",
        f"{LAST}/candidates/*/*/*.parquet", f"{LAST}/candidates/*/*/_files.json",
        "rounds/001/checkpoint/model.safetensors", "manifests/bad_records.json", "lock/*.json",
    )
    for damage in ("flips", "empty")
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "damage"), RESUMED)
def test_a_damaged_experiment_buys_the_same_or_nothing(bought: Config, copy: Config, pattern: str, damage: str) -> None:
    root = Path(copy.output_dir)
    forget(root, "select", "annotate")
    file = next(root.glob(pattern))
    file.write_bytes(damaged(file.read_bytes(), damage, 3))
    before = Path(bought.output_dir)
    whole = (before / LEDGER).read_bytes(), Storage(bought.output_dir).read_sealed(SELECTION)["counts"]
    quick = replace(copy, execution=replace(copy.execution, lock_seconds=2, storage_seconds=5))
    if not same_or_refused(lambda: resume(quick), whole, str(root)):
        assert not (root / LEDGER).exists()


@pytest.mark.parametrize("stages", [("annotate",), ("select", "annotate"), ("score", "select", "annotate")])
def test_an_undamaged_experiment_buys_the_same(bought: Config, copy: Config, stages: tuple[str, ...]) -> None:
    forget(Path(copy.output_dir), *stages)
    ledger, counts = resume(copy)
    assert ledger == Path(bought.output_dir, LEDGER).read_bytes()
    assert counts == Storage(bought.output_dir).read_sealed(SELECTION)["counts"]


def test_a_selection_of_another_round_is_not_bought(copy: Config) -> None:
    root = Path(copy.output_dir)
    forget(root, "annotate")
    (root / SELECTION).write_bytes((root / "rounds/001/selection.json").read_bytes())
    refused(lambda: resume(copy), SELECTION, "round 2")
    assert not (root / LEDGER).exists()


def test_candidates_that_are_gone_are_missed(copy: Config) -> None:
    root = Path(copy.output_dir)
    forget(root, "annotate")
    shutil.rmtree(root / LAST / "candidates")
    refused(lambda: resume(copy), "candidates", "is gone")
    assert not (root / LEDGER).exists()


@pytest.mark.parametrize(
    "pattern", ["stages/rounds/001/train.json", "plan.json", "rounds/001/annotations/ledger.parquet", "config.yaml"]
)
def test_the_sentence_reaches_the_user(
    copy: Config, pattern: str, job: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(copy.output_dir)
    file = root / pattern
    file.write_bytes(damaged(file.read_bytes(), "noise", 0))
    (tmp_path / "mine.yaml").write_text(config_to_yaml(copy))
    capsys.readouterr()
    assert job("run_al").main([f"--config={tmp_path / 'mine.yaml'}"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert_one_sentence(sentence, str(file))


def test_a_damaged_config_is_another_experiment_or_the_same(bought: Config) -> None:
    """What a flipped bit makes of config.yaml is refused by name, for another experiment, or in what may change."""
    whole = Path(bought.output_dir, "config.yaml").read_bytes()
    for seed in range(20):
        try:
            found = config_from_yaml(damaged(whole, "flip", seed), "config.yaml")
        except InputError as error:
            assert_one_sentence(str(error), "config.yaml")
            continue
        keys = identity(bought)
        changed = [key for key in keys if identity(found)[key] != keys[key]]
        assert len(changed) <= 1


@pytest.mark.parametrize("text", ["[3]", '[{"split": "moon", "image_id": "a"}]', '[{"split": "pool"}]', "3", "{", ""])
def test_bad_records_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests/bad_records.json").write_text(text)
    refused(lambda: bad_ids(Storage(str(tmp_path))), "bad_records.json")


@pytest.mark.parametrize("text", [b"{", b"\xff", b"\0", b'{"round": 0}\n{"rou'])
def test_metrics_that_are_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(text)
    refused(lambda: read_metrics(Storage(str(tmp_path))), "metrics.jsonl")


@pytest.mark.parametrize("data", [b"", b"{", b"\0" * 300, b"[]", b"3", b"\xff\xfe"])
def test_a_lock_that_says_nothing_is_taken_over(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock/00000007.json").write_bytes(data)
    with locked(Storage(str(tmp_path)), 1) as held:
        held.write("x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"


# Networks


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
            ("backbone", {"model_type": "resnet", "stage_names": [0]}),
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
def test_a_description_that_nothing_can_be_predicted_with(
    handed_on: Path, tmp_path: Path, bought: Config, key: str, value: Any
) -> None:
    shutil.copytree(handed_on, tmp_path / "c")
    description = json.loads((tmp_path / "c/model.json").read_text()) | {key: value}
    (tmp_path / "c/model.json").write_text(json.dumps(description))
    images = str(Path(bought.data_root, "night/images"))
    refused(
        lambda: predict_images(str(tmp_path / "c"), images, str(tmp_path / "out"), bought.execution), f"{tmp_path}/c"
    )
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"best": 3}', '{"best": {}}', '{"best": {"checkpoint": "../../x"}}', "\0", '{"best": null}'],
)
def test_an_experiment_without_a_best_model(tmp_path: Path, bought: Config, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints.json").write_text(text)
    images = str(Path(bought.data_root, "night/images"))
    refused(
        lambda: predict_images(str(tmp_path / "run"), images, str(tmp_path / "out"), bought.execution),
        str(tmp_path / "run"),
    )
