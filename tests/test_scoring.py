"""What a scoring actor does with an image that the network fails on; a real model, coordinator and storage."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import ray
import torch
from ray.actor import ActorProxy
from safetensors.torch import load_file, save_file

from halo_ray.acquisition.budget import RoundPlan
from halo_ray.config import Config
from halo_ray.context import open_experiment
from halo_ray.coordinator import Coordinator
from halo_ray.data.decoding import DecodeImages
from halo_ray.data.manifest import load_splits
from halo_ray.errors import BadRecordError, InputError
from halo_ray.scoring import Scorer, ScoringJob, score_pool
from halo_ray.storage import Storage

JOB = ScoringJob(
    storage=Storage("/nowhere"),
    checkpoint="pretrain/checkpoint",
    input_size=(64, 96),
    acquisition=None,
    functions=("halo",),
    plan=RoundPlan(30, "1/100"),
    pool_pixels=6 * 72 * 100,
    seed=1,
    never=None,
    features=None,
    maps=None,
    problems="problems",
)


@pytest.fixture
def coordinator(cluster: None) -> Iterator[ActorProxy[Coordinator]]:
    actor = ray.remote(num_cpus=0)(Coordinator).remote(6, 10**6)  # more regions than there are: no bound
    yield actor
    ray.kill(actor)


@pytest.fixture
def images(experiment: Config) -> pa.Table:
    """The decoded pool, nothing asked yet."""
    pool = load_splits(Storage(experiment.output_dir)).pool
    pool = pool.append_column("row", pa.array(range(6)))
    for name in ("asked_y", "asked_x"):
        pool = pool.append_column(name, pa.array([[]] * 6, pa.list_(pa.int64())))
    return DecodeImages((64, 96))(pool)


@pytest.fixture
def scorer(experiment: Config, coordinator: ActorProxy[Coordinator], tmp_path: Path) -> Scorer:
    (tmp_path / "pretrain").symlink_to(Path(experiment.output_dir, "pretrain"))
    acquisition = replace(experiment.acquisition, beta=float("inf"))
    threads = torch.get_num_threads()
    made = Scorer(replace(JOB, storage=Storage(str(tmp_path)), acquisition=acquisition), coordinator, "cpu")
    torch.set_num_threads(threads)
    return made


class Failing(torch.nn.Module):
    """A model that fails at some of its calls, counted from 0."""

    def __init__(self, model: torch.nn.Module, calls: set[int], error: Exception) -> None:
        super().__init__()
        self.model, self.calls, self.error, self.called = model, calls, error, 0
        self.curvature = model.curvature

    def forward(self, images: torch.Tensor) -> object:
        self.called += 1
        if self.called - 1 in self.calls:
            raise self.error
        return self.model(images)


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def ids(table: pa.Table) -> set[str]:
    return set(table["image_id"].to_pylist())


def test_an_image_that_fails_once_is_tried_again(scorer: Scorer, images: pa.Table, tmp_path: Path) -> None:
    expected = scorer(images)
    scorer._model = Failing(scorer._model, {0, 3}, OUT_OF_MEMORY)
    found = scorer(images)
    assert scorer._model.called == 8
    assert found.equals(expected)
    assert not (tmp_path / "problems").exists()


@pytest.mark.parametrize(
    "error", [OUT_OF_MEMORY, BadRecordError("nan in the logits, at index [0, 0]")], ids=["memory", "NaN"]
)
def test_an_image_that_fails_twice_is_recorded_and_the_others_go_on(
    scorer: Scorer, images: pa.Table, tmp_path: Path, error: Exception, coordinator: ActorProxy[Coordinator]
) -> None:
    # NaN is no accident of memory and is not tried again.
    scorer._model = Failing(scorer._model, {2, 3} if isinstance(error, RuntimeError) else {2}, error)
    found = scorer(images)
    assert ids(found) == {"0", "1", "3", "4", "5"}
    storage = Storage(str(tmp_path))
    assert storage.read_json("problems/2.json") == {"image_id": "2", "problem": str(error), "scored": False}
    assert ray.get(coordinator.images.remote()) == 5


def test_the_memory_of_the_failed_attempt_is_free_before_the_next(scorer: Scorer, images: pa.Table) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    model = scorer._model

    def forward(pixels: torch.Tensor) -> object:
        assert all(activation() is None for activation in held)
        if len(held) == 0:
            activation = torch.ones(1000)
            held.append(weakref.ref(activation))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model(pixels)

    forward.curvature = model.curvature  # type: ignore[attr-defined]
    scorer._model = forward
    assert ids(scorer(images.slice(0, 1))) == {"0"}
    assert len(held) == 1


def test_a_lost_device_ends_the_actor(scorer: Scorer, images: pa.Table) -> None:
    lost = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    scorer._model = Failing(scorer._model, {0}, lost)
    with pytest.raises(torch.AcceleratorError):
        scorer(images)


def test_a_mistake_in_a_function_is_not_taken_for_a_bad_image(scorer: Scorer, images: pa.Table) -> None:
    scorer._bounds = {"own_scores.broken": float("-inf")}
    with pytest.raises(InputError, match=r"own_scores.broken failed on image 0 \(ZeroDivisionError"):
        scorer(images)


def test_scores_that_are_not_numbers_are_left_out_and_recorded(
    scorer: Scorer, images: pa.Table, tmp_path: Path
) -> None:
    scorer._bounds = {"own_scores.half": float("-inf")}
    scorer._job = replace(scorer._job, functions=("own_scores.half",))
    scorer._coordinator = SimpleNamespace(
        add=SimpleNamespace(remote=lambda _reports, _places: ray.put({"own_scores.half": -1e30}))
    )
    found = scorer(images)
    assert ids(found) == {"0", "1", "2", "3", "4", "5"}
    assert min(found["y"].to_pylist()) >= 36
    problem = Storage(str(tmp_path)).read_json("problems/3.json")
    assert problem["problem"] == "3600 of 7200 scores of own_scores.half are NaN and were left out"
    assert problem["scored"]


def test_a_model_that_fails_on_every_image_ends_the_stage(experiment: Config, tmp_path: Path) -> None:

    config = replace(experiment, output_dir=str(tmp_path / "run"))
    with open_experiment(config) as context:
        source = Path(experiment.output_dir, "pretrain/checkpoint")
        target = tmp_path / "run/broken"
        target.mkdir()
        (target / "model.json").write_bytes((source / "model.json").read_bytes())
        weights = load_file(source / "model.safetensors")
        broken = {key: w * float("nan") if w.is_floating_point() else w for key, w in weights.items()}
        save_file(broken, target / "model.safetensors")
        with pytest.raises(InputError, match="no image of the pool could be scored; 0: nan in the embedding"):
            score_pool(context, 1, "broken")
