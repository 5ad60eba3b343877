"""Damage to what an experiment has stored: a sentence that names it, or the same picks byte for byte; never others.

Cases: 9 kinds of file with 30 random damages each (270), 15 exchanges of files, 28 damaged experiments that are resumed
and 4 through the job, 20 damaged configurations, 24 of other kinds: 361.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bad_input import (
    DAMAGES,
    MANY_CASES,
    SECONDS,
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
from halo_ray.checkpoint import load_model
from halo_ray.config import Config, config_to_yaml
from halo_ray.data.inspection import bad_ids, stored_class_pixels
from halo_ray.data.manifest import load_splits
from halo_ray.experiment import run_experiment
from halo_ray.lock import locked
from halo_ray.predict_images import predict_images
from halo_ray.results import outdated, read_metrics
from halo_ray.stages import Stages
from halo_ray.storage import Storage
from halo_ray.stored import stored_config

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
    refused(lambda: resume(copy), SELECTION)
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


@pytest.mark.parametrize("seed", range(5))
def test_a_configuration_with_another_bit_is_refused(copy: Config, seed: int) -> None:
    file = Path(copy.output_dir, "config.yaml")
    file.write_bytes(damaged(file.read_bytes(), "flip", seed))
    refused(lambda: stored_config(Storage(copy.output_dir)), "config.yaml")


@pytest.mark.parametrize("text", ["[3]", '[{"split": "moon", "image_id": "a"}]', '[{"split": "pool"}]', "3", "{", ""])
def test_bad_records_that_are_none(copy: Config, text: str) -> None:
    Path(copy.output_dir, "manifests/bad_records.json").write_text(text)
    refused(lambda: bad_ids(Storage(copy.output_dir)), "bad_records.json")


@pytest.mark.parametrize("text", ["[]", "{}", "null", "[" * 100_000, ""])
def test_an_inspection_that_is_none(copy: Config, text: str) -> None:
    Path(copy.output_dir, "manifests/inspection.json").write_text(text)
    refused(lambda: stored_class_pixels(Storage(copy.output_dir), "pool"), "inspection.json")


@pytest.mark.parametrize("text", [b"{", b"\xff", b"", b'{"round": 0}\n{"rou'])
def test_metrics_are_read_from_what_is_committed(copy: Config, text: bytes) -> None:
    storage = Storage(copy.output_dir)
    rows = [json.loads(line) for line in storage.read("metrics.jsonl").splitlines()]
    storage.write("metrics.jsonl", text)
    assert read_metrics(storage) == rows
    assert sorted(outdated(storage)) == ["metrics.jsonl"]


@pytest.mark.parametrize("data", [b"", b"{", b"\0" * 300, b"[]", b"3", b"\xff\xfe"])
def test_a_lock_that_says_nothing_is_taken_over(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "lock").mkdir()
    (tmp_path / "lock/00000007.json").write_bytes(data)
    with locked(Storage(str(tmp_path)), 1) as held:
        held.write("x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"


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
