"""What fails for a while is tried again, and what never works ends in one sentence."""

from __future__ import annotations

import errno
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from halo_ray.errors import InputError
from halo_ray.patience import ANSWERS, StorageError, patiently
from halo_ray.storage import Storage


def failing(times: int, error: Callable[[], Exception]) -> Callable[[], int]:
    """Fails so often, and then says how often it was asked."""
    asked = 0

    def operation() -> int:
        nonlocal asked
        asked += 1
        if asked <= times:
            raise error()
        return asked

    return operation


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EDQUOT, errno.EROFS, errno.ESTALE])
def test_a_failure_that_passes_is_not_noticed(code: int) -> None:
    assert patiently(failing(3, lambda: OSError(code, "no")), "x", 30) == 4


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_is_an_answer_is_not_asked_again(kind: type[OSError]) -> None:
    operation = failing(1, kind)
    with pytest.raises(kind):
        patiently(operation, "x", 30)
    assert operation() == 2


def test_errors_of_the_code_are_not_tried_again() -> None:
    operation = failing(1, ValueError)
    with pytest.raises(ValueError):  # noqa: PT011
        patiently(operation, "x", 30)
    assert operation() == 2


def test_what_never_works_is_named_after_the_stated_time(capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    with pytest.raises(StorageError, match=r"^run/x could not be .* for 2 s \(No space left\): ") as error:
        patiently(failing(10**9, lambda: OSError(errno.ENOSPC, "No space left")), "run/x", 2)
    assert 2 <= time.monotonic() - start < 10
    assert isinstance(error.value, InputError)  # jobs end with exit code 2
    assert "run/x: No space left; trying again for up to" in capsys.readouterr().err


def test_a_disk_that_was_full_for_a_moment(tmp_path: Path) -> None:
    """A real limit: no file of this process may grow beyond it."""
    storage, (soft, hard) = Storage(str(tmp_path), patience=60), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    freed = threading.Timer(1, resource.setrlimit, (resource.RLIMIT_FSIZE, (soft, hard)))
    freed.start()
    try:
        storage.write("x", bytes(2 << 20))
    finally:
        freed.join()
    assert storage.read("x") == bytes(2 << 20)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
