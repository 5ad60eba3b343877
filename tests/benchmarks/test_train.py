"""The benchmark of training as it is called, at sizes that tell nothing about speed; both its steps do the same."""

import re
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from halo_ray.benchmarks.official_step import OfficialStep
from halo_ray.benchmarks.train import OurStep, TrainBenchmark, network, samples
from halo_ray.models.segmenter import Segmenter

Job = Callable[[str], ModuleType]

STEPS = ["--step_backbones=[resnet-tiny]", "--step_height=64", "--step_width=64", "--repeats=1"]
LOOPS = ["--images=2", "--height=64", "--width=64", "--input_height=64", "--input_width=64", "--backbone=resnet-tiny"]


def test_every_figure_of_the_report_is_printed(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert job("benchmark").main(["train", *STEPS, *LOOPS, "--batch=2", "--steps=2", "--warm_up=1", "--runs=1"]) == 0
    out = capsys.readouterr().out
    assert re.search(
        r"^resnet-tiny, 64x64, 2 images a step, 1 threads: Ray Train \(local mode\) with Ray Data \S+ samples a "
        r"second, a bare loop with a DataLoader \S+: \S+ of it",
        out,
        re.M,
    )
    for said in ("with", "without"):
        assert re.search(rf"step of resnet-tiny.* official step {said} anomaly detection \S+ s: \S+ times faster", out)


def gradients(model: Segmenter, step: Callable[[], Tensor]) -> tuple[float, dict[str, Tensor]]:
    """The loss of a step, and the gradients that its optimizers were given for flat weights."""
    found: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        weight.register_post_accumulate_grad_hook(lambda w, name=name: found.update({name: w.grad.clone()}))
    torch.manual_seed(1)  # of dropout
    loss = float(step())
    return loss, {name: each for name, each in found.items() if not name.startswith("head")}


def test_both_steps_take_the_same_loss_down_the_same_way() -> None:
    torch.manual_seed(0)
    model, theirs = (network("resnet-tiny").double().train() for _ in range(2))
    theirs.load_state_dict(model.state_dict())
    parts = samples(TrainBenchmark(step_height=64, step_width=96))
    loss, ours = gradients(model, OurStep(model, parts, autocasts=False))
    expected, official = gradients(theirs, OfficialStep(theirs, parts))
    assert loss == pytest.approx(expected, rel=1e-6)
    assert ours.keys() == official.keys()
    assert len(ours) > 20
    # Points are float32 fractions of a side; some biases have no gradient but rounding, since a norm follows.
    least = 1e-6 * max(float(each.abs().max()) for each in ours.values())
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, official[name], rtol=1e-4, atol=least)


@pytest.mark.parametrize(
    ("argument", "named"),
    [("--step_width=65", "step_width is 65"), ("--runs=-1", "runs is -1"), ("--batch=0", "batch is 0")],
)
def test_a_wrong_setting_is_one_sentence(
    job: Job, capsys: pytest.CaptureFixture[str], argument: str, named: str
) -> None:
    assert job("benchmark").main(["train", argument]) == 2
    assert re.search(rf"^error: {named}", capsys.readouterr().err)
