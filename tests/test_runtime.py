from dataclasses import replace

import pytest
import ray
import torch

from halo_ray.cluster import training_workers
from halo_ray.errors import BadRecordError, InputError
from halo_ray.execution import ExecutionConfig
from halo_ray.runtime import check_own_process, inference_here, input_error, ray_session


class WorkerFailuresError(RuntimeError):
    """As Ray Train reports the failures of its workers."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("workers failed")
        self.worker_failures = failures


class RemoteError(RuntimeError):
    """As Ray reports the failure of a task: the original is its ``cause``."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("a long remote traceback")
        self.cause = cause


def chained(cause: Exception) -> Exception:
    try:
        raise RuntimeError("outer") from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "wrap",
    [
        lambda error: error,
        RemoteError,
        chained,
        lambda error: WorkerFailuresError({0: ValueError("other"), 1: RemoteError(error)}),
        lambda error: chained(RemoteError(chained(error))),
    ],
    ids=["itself", "remote", "chained", "worker", "nested"],
)
def test_the_users_error_is_found_behind_what_ray_makes_of_it(wrap) -> None:
    found = input_error(wrap(BadRecordError("label x.png is broken")))
    assert isinstance(found, InputError)
    assert str(found) == "label x.png is broken"


def test_other_errors_are_nobodys_input() -> None:
    loop = ValueError("a")
    loop.__context__ = chained(loop)  # a cycle must not hang
    assert input_error(loop) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_actors": -1}, r"execution\.max_actors is -1"),
        ({"batch_images": 0}, r"execution\.batch_images is 0"),
        ({"num_workers": -1}, r"execution\.num_workers is -1"),
        ({"warn_share": 1.5}, r"execution\.warn_share is 1.5"),
        ({"min_actors": 3, "max_actors": 2}, r"execution\.min_actors 3.*execution\.max_actors 2"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExecutionConfig(**settings)


@pytest.mark.parametrize(
    ("gpus", "batches", "most", "expected"),
    [(8, (4, 4), 4, 4), (8, (4, 4), 3, 2), (8, (6, 4), 10, 2), (3, (8, 8), 8, 2), (1, (3, 5), 8, 1), (0, (4, 4), 4, 0)],
)
def test_a_worker_for_each_gpu_that_divides_the_batches(
    cluster: None, monkeypatch: pytest.MonkeyPatch, gpus: int, batches: tuple[int, int], most: int, expected: int
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 64.0, "GPU": float(gpus)})
    assert training_workers(ExecutionConfig(), batches, most) == expected
    assert training_workers(ExecutionConfig(num_workers=(1, 9)), batches, most) == (1, 9)
    assert training_workers(ExecutionConfig(device="cpu"), batches, most) == 0


def test_more_workers_than_this_machine_has_gpus_are_refused(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 64.0, "GPU": 1.0})
    wanted = r"execution\.num_workers is 2, each with a GPU, .* has 1: .*device to cpu"
    for number in (2, (2, 4)):
        with pytest.raises(InputError, match=wanted), ray_session(ExecutionConfig(num_workers=number)):
            raise AssertionError("it began")
    for allowed in (ExecutionConfig(num_workers=(1, 2)), ExecutionConfig(num_workers=2, device="cpu")):
        with ray_session(allowed):
            pass


@pytest.mark.parametrize("key", ["num_workers", "max_actors"])
def test_a_driver_without_a_gpu_is_not_asked_to_compute_on_one(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    own = ExecutionConfig(**{"device": "cuda", "num_workers": 2, key: 0})
    with pytest.raises(InputError, match=rf"execution\.{key} is 0.*there is no GPU where that runs"):
        check_own_process(own)
    for allowed in (replace(own, device="cpu"), replace(own, **{key: 1})):
        check_own_process(allowed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_own_process(own)


def test_inference_in_this_process_leaves_it_as_it_was() -> None:
    def settings() -> tuple[object, ...]:
        return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark

    def fail() -> None:
        with inference_here():
            assert settings() == (1, False, False)
            raise ValueError("x")

    before = settings()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = True
    try:
        trained = settings()
        with pytest.raises(ValueError, match="x"):
            fail()
        assert settings() == trained
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.backends.cudnn.benchmark = before[2]
