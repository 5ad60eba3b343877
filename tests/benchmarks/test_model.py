"""The benchmark as it is called, at sizes that tell nothing about speed."""

import re
from collections.abc import Callable
from types import ModuleType

import pytest

SMALL = ["--height=64", "--width=64", "--image_height=64", "--image_width=64", "--repeats=1"]


def test_every_figure_of_the_report_is_printed(
    job: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    assert job("benchmark").main(["model", *SMALL, "--backbones=[resnet-tiny]"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"upsampled_radius, D=64, 10x10 -> 64x64: .* times faster", out)
    assert re.search(r"memory: \S+ MiB against \S+ MiB|this system does not tell", out)
    assert re.search(r"forward and backward \S+ s, official \S+ s: \S+ times faster", out)
    assert re.search(r"DeepLabV3\+ resnet-tiny, 2x3x64x64, .* hyperbolic \S+ s, Euclidean \S+ s: [+-]\S+ %", out)


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("--height=65", "height is 65"),
        ("--repeats=0", "repeats is 0"),
        ("--backbones=[resnet-49]", "model.backbone.*resnet-49.*resnet-50"),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    job: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str], argument: str, named: str
) -> None:
    assert job("benchmark").main(["model", *SMALL, argument]) == 2
    assert re.search(rf"^error: {named}", capsys.readouterr().err)
