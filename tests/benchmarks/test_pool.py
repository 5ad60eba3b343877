"""Benchmarks of scoring and selection as they are called, at sizes that tell nothing about speed."""

import re
from collections.abc import Callable
from types import ModuleType

import pytest

from halo_ray.acquisition.scores import ACQUISITIONS

Job = Callable[[str], ModuleType]


def test_acquisition(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert job("benchmark").main(["acquisition", "--height=64", "--width=96", "--repeats=1", "--share=0.05"]) == 0
    out = capsys.readouterr().out
    for part in ("acquisition map", "picking", "both"):
        assert re.search(rf"^{part}: \S+ s, official procedure \S+ s: \S+ times faster", out, re.M)
    assert "35 of 35 regions are the official procedure's" in out
    for name in ("ramp", "falling ramp", "plateau", "checkerboard"):
        assert re.search(rf"picking from a {name}: \S+ s, \S+ times the usual", out)
    assert re.search(r"extra memory: \S+ MiB|this system does not tell", out)
    for name in ACQUISITIONS:
        assert f"map {name}: " in out


def test_selection(cluster: None, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--candidates=100000", "--images=2000", "--part=4000", "--batch=16"]
    assert job("benchmark").main(["selection", *settings]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^1e\+05 candidates of 2000 images in 25 tasks, 100 chosen: .* s of CPU, \d+ MB at its peak", out)
    assert re.search(r"checked by counting: .* 100 chosen: every image's share is exact", out)
    assert re.findall(r"^ +(1000|2000)   +\d+   +\S+   +\d+   \S+$", out, re.M) == ["1000", "2000"]


def test_scoring(cluster: None, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--images=20", "--height=64", "--width=64", "--backbone=resnet-tiny", "--actors=[1]", "--repeats=1"]
    assert job("benchmark").main(["scoring", *settings]) == 0
    out = capsys.readouterr().out
    assert re.search(r"plain loop: \S+ images a second, 1.00 of the plain loop", out)
    assert re.search(r"Ray Data, actors 1: \S+ images a second, \S+ of the plain loop", out)


def test_data(cluster: None, job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--images=3", "--height=64", "--width=96", "--input_height=32", "--input_width=48", "--repeats=1"]
    assert job("benchmark").main(["data", *settings]) == 0
    out = capsys.readouterr().out
    for name in ("resized", r"resized, flip and colour jitter \(default\)", "random scale and crop.*"):
        assert re.search(rf"^{name}: \S+ samples a second, \S+ of bare Pillow", out, re.M)
    assert re.search(r"through Ray Data on 2 CPUs: \S+ samples a second and CPU", out)
    assert re.search(r"images from loopback S3: \S+ a second, \S+ of those from the disk", out)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["acquisition", "--height=65"], "height is 65"),
        (["acquisition", "--repeats=0"], "repeats is 0"),
        (["selection", "--part=0"], "part is 0"),
        (["selection", "--share=1.5"], "share is 1.5"),
        (["scoring", "--images=1"], "images is 1"),
        (["data", "--input_width=16"], "input_width is 16"),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    job: Job, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert job("benchmark").main(arguments) == 2
    assert re.search(rf"^error: {named}", capsys.readouterr().err)
