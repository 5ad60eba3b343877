"""Nodes that do not say what they see, and nodes that cannot; the others are tests/cluster/test_nodes.py's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from halo_ray import visibility
from halo_ray.errors import InputError

pytestmark = pytest.mark.usefixtures("cluster")


def node() -> str:
    return str(ray.get_runtime_context().get_node_id())


# Nodes do not have this module: only what has no name there is sent to them as it is.
HANG, DIE = lambda files: time.sleep(60), lambda files: os._exit(1)


def ask(monkeypatch: pytest.MonkeyPatch, look: Callable[[list[str]], None], seconds: float) -> list[list[str]]:
    """What a node says that does this instead of looking."""
    monkeypatch.setattr(visibility, "_missing", look)
    return visibility._missing_on({node()}, ["/data/a.png"], seconds)


def test_a_node_says_what_it_does_not_see(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    files = [str(tmp_path / name) for name in ("there", "gone")]
    assert visibility._missing_on({node()}, files, 60) == [files[1:]]


def test_a_node_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=rf"did not say in 1 s.*/data/a\.png.*{node()}"):
        ask(monkeypatch, HANG, seconds=1)


def test_a_node_where_tasks_die_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=f"node {node()} .*cannot run"):
        ask(monkeypatch, DIE, seconds=120)


@pytest.mark.parametrize(("look", "seconds"), [(HANG, 1), (DIE, 120)], ids=["hangs", "dies"])
def test_a_node_that_is_gone_meanwhile_is_left_out(
    monkeypatch: pytest.MonkeyPatch, look: Callable[[list[str]], None], seconds: float
) -> None:
    monkeypatch.setattr(visibility, "_nodes_that_compute", set)
    assert ask(monkeypatch, look, seconds) == []
