"""One cluster of three nodes and one undisturbed experiment for all kills."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from kills import Nodes, Undisturbed


@pytest.fixture(scope="package")
def nodes() -> Iterator[Nodes]:
    with ExitStack() as stack:
        yield Nodes(stack)


@pytest.fixture(scope="package")
def undisturbed(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed.run(nodes, tmp_path_factory.mktemp("undisturbed") / "run")
