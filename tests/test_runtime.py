import pytest

from halo_ray.errors import BadRecordError, InputError
from halo_ray.runtime import ExecutionConfig, input_error


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
        ({"max_actors": 0}, r"execution\.max_actors is 0"),
        ({"batch_images": 0}, r"execution\.batch_images is 0"),
        ({"num_workers": -1}, r"execution\.num_workers is -1"),
        ({"min_actors": 3, "max_actors": 2}, r"execution\.min_actors 3.*execution\.max_actors 2"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExecutionConfig(**settings)
