"""Stages that machines interrupted are begun again, those that fail by themselves are not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import ray
from ray.exceptions import RayTaskError
from ray.util.placement_group import placement_group, placement_group_table

from halo_ray.attempts import attempted
from halo_ray.cluster import remove_orphaned_groups
from halo_ray.errors import InputError


@ray.remote(max_retries=0, num_cpus=0.1)
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@ray.remote(max_retries=0, num_cpus=0.1)
def fail(kind: type[Exception]) -> None:
    raise kind("as it was written")


class Work:
    """Is interrupted as often as that, and counts."""

    def __init__(self, times: int, how: Callable[[], Any]) -> None:
        self.calls, self._times, self._how = 0, times, how

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._times:
            self._how()
        return "done"


def test_a_stage_goes_on_after_processes_died(cluster: None, capsys: pytest.CaptureFixture[str]) -> None:
    work = Work(2, lambda: ray.get(die.remote()))
    assert attempted("rounds/001/score", work, 2) == "done"
    assert work.calls == 3
    said = capsys.readouterr().out
    assert "rounds/001/score was interrupted (" in said
    assert "attempt 3 of 3" in said


def test_the_budget_ends_in_one_sentence(cluster: None) -> None:
    work = Work(9, lambda: ray.get(die.remote()))
    with pytest.raises(InputError, match=r"^rounds/001/score was interrupted 2 times \(execution.max_failures 1\)"):
        attempted("rounds/001/score", work, 1)
    assert work.calls == 2


@pytest.mark.parametrize(("kind", "raised"), [(InputError, InputError), (ValueError, RayTaskError)])
def test_what_the_code_or_the_data_did_is_not_tried_again(
    cluster: None, kind: type[Exception], raised: type[Exception]
) -> None:
    work = Work(1, lambda: ray.get(fail.remote(kind)))
    with pytest.raises(raised, match="as it was written"):
        attempted("x", work, 3)
    assert work.calls == 1


def test_a_storage_that_fails_in_a_process_of_ray_is_tried_again(cluster: None) -> None:
    work = Work(1, lambda: ray.get(fail.remote(OSError)))
    assert attempted("x", work, 1) == "done"


@ray.remote(num_cpus=0)
class Controller:
    """Reserves something, and dies."""

    def reserve(self) -> Any:
        group = placement_group([{"CPU": 0.1}])
        ray.get(group.ready())
        return group

    def pid(self) -> int:
        return os.getpid()


def state(group: Any) -> str:
    return str(placement_group_table(group)["state"])


def test_what_a_dead_controller_reserved_is_given_back_and_nothing_else(cluster: None) -> None:
    living, dying = Controller.remote(), Controller.remote()
    kept, orphan = ray.get([living.reserve.remote(), dying.reserve.remote()])
    own = placement_group([{"CPU": 0.1}])
    ray.get(own.ready())
    os.kill(ray.get(dying.pid.remote()), signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(dying.pid.remote(), timeout=60)
    assert state(orphan) == "CREATED"
    remove_orphaned_groups()
    assert [state(group) for group in (orphan, kept, own)] == ["REMOVED", "CREATED", "CREATED"]
    for group in (kept, own):
        ray.util.remove_placement_group(group)
    ray.kill(living)
