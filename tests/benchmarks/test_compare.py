"""Comparisons against sleeps and allocations whose ratio is known."""

import sys
import time

import pytest
import torch

from halo_ray.benchmarks.compare import compare, extra_memory


def test_the_ratio_is_that_of_the_times() -> None:
    found = compare(lambda: time.sleep(0.01), lambda: time.sleep(0.05), repeats=3, device="cpu")
    # A sleep may last longer than asked, never shorter.
    assert found.ours >= 0.01
    assert found.other >= 0.05
    assert 1 < found.ratio < 5.5


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc, which only Linux has")
def test_memory_is_the_peak_and_not_what_remains() -> None:
    size = 64 * 2**20

    def passing() -> int:
        return int(torch.ones(size, dtype=torch.uint8)[-1])

    found = extra_memory(passing, "cpu")
    if found is None:
        pytest.skip("this system does not let a process reset its peak of resident memory")
    assert 0.9 * size < found < 1.5 * size
    assert extra_memory(lambda: None, "cpu") < size / 4
