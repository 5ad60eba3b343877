"""The presets of the paper's shifts: their settings, and a few steps of each on folders in the official layouts."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import ModuleType

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image

from halo_ray.acquisition.budget import plan_budget
from halo_ray.config import Config, parse_config
from halo_ray.data.synthetic import render_scene
from halo_ray.models.build import build_model
from halo_ray.models.decoders import DeepLabV3PlusDecoder, SegformerDecoder
from halo_ray.results import read_metrics
from halo_ray.storage import Storage
from halo_ray.training.schedules import Schedule

PRESETS = Path(__file__).parents[2] / "jobs/presets"
SHIFTS = ("gtav_to_cityscapes", "synthia_to_cityscapes", "cityscapes_to_acdc")
NETWORKS = {"deeplabv3plus": [], "segformer_b4": ["--preset", "segformer_b4"]}
PROTOCOLS = ("source_target", "source_free")
CITYSCAPES_IDS, SYNTHIA_IDS = np.arange(34, dtype=np.uint8), np.arange(23, dtype=np.uint16)
FRAMES, HEIGHT, WIDTH = 3, 64, 128

TINY = [
    *("--data.height", "64", "--data.width", "128", "--training.pretrain_steps", "1"),
    *(
        "--acquisition.rounds",
        "1",
        "--training.round_steps",
        "2",
        "--training.source_batch",
        "1",
        "--training.target_batch",
        "1",
    ),
    *("--training.warmup_steps", "2", "--acquisition.budget", "0.04", "--execution.device", "cpu"),
    *("--execution.num_workers", "0", "--execution.max_actors", "0"),
]
"""The same experiment with a few steps of small images."""


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GTAV, SYNTHIA, Cityscapes and ACDC in miniature, each below its own name; scenes with the classes spread over."""
    root = tmp_path_factory.mktemp("datasets")
    for index in range(FRAMES):
        name = f"{index:05d}"
        _frame(root / f"gtav/images/{name}.png", root / f"gtav/labels/{name}.png", index, palette=True)
        _frame(root / f"synthia/RGB/{name}.png", root / f"synthia/GT/LABELS/{name}.png", index, ids=SYNTHIA_IDS)
        for split in ("train", "val"):
            at, frame = f"{split}/ulm", f"ulm_{name}_000019"
            below = root / "cityscapes"
            label = below / f"gtFine/{at}/{frame}_gtFine_labelIds.png"
            _frame(below / f"leftImg8bit/{at}/{frame}_leftImg8bit.png", label, index + 10)
            at, frame = f"{('fog', 'night', 'rain')[index]}/{split}/GOPR0475", f"GOPR0475_frame_{name}"
            label = root / f"acdc/gt/{at}/{frame}_gt_labelIds.png"
            _frame(root / f"acdc/rgb_anon/{at}/{frame}_rgb_anon.png", label, index + 20)
    return root


def _frame(image: Path, label: Path, index: int, ids: np.ndarray = CITYSCAPES_IDS, *, palette: bool = False) -> None:
    pixels, classes = render_scene("source", 0, index, height=HEIGHT, width=WIDTH)
    image.parent.mkdir(parents=True, exist_ok=True)
    label.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(image)
    numbers = ids[(3 * classes.astype(int) + np.arange(WIDTH) // 16) % len(ids)]
    if ids is SYNTHIA_IDS:
        label.write_bytes(imagecodecs.png_encode(np.dstack([numbers, numbers, 0 * numbers])))
        return
    drawn = Image.fromarray(numbers)
    if palette:
        drawn.putpalette(bytes(range(256)) * 3)
    drawn.save(label)


def configured(shift: str, network: str, protocol: str, *more: str) -> Config:
    options = ["--preset", shift, *NETWORKS[network], "--training.protocol", protocol, "--data_root", "X", *more]
    return parse_config(options, PRESETS)


@pytest.mark.parametrize(("shift", "network", "protocol"), list(product(SHIFTS, NETWORKS, PROTOCOLS)))
def test_the_settings_are_the_official_ones(shift: str, network: str, protocol: str) -> None:
    config = configured(shift, network, protocol)
    training, deeplab = config.training, network == "deeplabv3plus"
    steps = training.steps_of_rounds(config.rounds)
    assert [sum(steps[:number]) for number in range(6)] == [0, 3750, 7500, 10000, 12500, 60000 / 4]
    assert training.batches == ((8, 8) if deeplab else (4, 4))
    rates = training.learning_rate, training.round_learning_rate, training.head_factor, training.weight_decay
    assert rates == ((1e-3, 1e-3, 10, 5e-4) if deeplab else (6e-5, 6e-5, 10, 1e-2))
    assert (training.optimizer, training.warmup_steps) == (("sgd", 600) if deeplab else ("adamw", 1000))
    assert (training.schedule, training.poly_power, training.between_rounds) == ("poly", 0.5, "continue")
    assert (training.losses.negative, training.losses.consistency, training.uses_source) == (
        1,
        0,
        protocol != "source_free",
    )
    schedule = Schedule(training.schedule, 15000, training.warmup_steps, training.poly_power)
    assert schedule.factor(7500) == pytest.approx(math.sqrt(0.5))
    assert config.data.source_size == ((640 if shift == "cityscapes_to_acdc" else 720), 1280)
    assert (config.data.height, config.data.width) == (640, 1280)
    acquisition = config.acquisition
    assert (acquisition.region_radius, acquisition.exclusion_radius, acquisition.selection_beta) == (1, 5, math.inf)
    for budget, regions in ((0.05, 2331), (0.022, 1026), (0.01, 467)):  # of a frame of Cityscapes, in a round
        own = configured(shift, network, protocol, "--acquisition.budget", str(budget)).acquisition
        assert {plan.regions for plan in plan_budget(own, [(1024, 2048)] * 3)} == {3 * regions}


def test_networks_are_those_of_the_paper() -> None:
    """Built whole, with random weights."""
    config = configured("gtav_to_cityscapes", "deeplabv3plus", "source_target", "--model.pretrained", "").model
    model = build_model(config, 19)
    assert isinstance(model.decoder, DeepLabV3PlusDecoder)
    assert sum(p.numel() for p in model.backbone.parameters()) == pytest.approx(42_394_816, rel=0.01)
    assert (config.embedding, config.hfr, model.backbone.strides[-1]) == (64, "official", 8)
    image = torch.zeros(1, 64, 128, 3, dtype=torch.uint8)
    assert model.eval()(image).logits.shape == (1, 19, 16, 32)
    config = configured("gtav_to_cityscapes", "segformer_b4", "source_target", "--model.backbone", "mit-b4").model
    model = build_model(config, 19)
    assert isinstance(model.decoder, SegformerDecoder)
    assert (config.embedding, config.hfr, config.geometry) == (768, "off", "hyperbolic")
    assert model.eval()(image).embedding.shape == (1, 768, 16, 32)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the second protocol takes over from the first: the inspection and the pretrained network."""
    return tmp_path_factory.mktemp("shared")


IN_EVERY_RUN = {
    ("gtav_to_cityscapes", "deeplabv3plus", "source_target"),
    ("gtav_to_cityscapes", "segformer_b4", "source_free"),
    ("synthia_to_cityscapes", "segformer_b4", "source_target"),
    ("synthia_to_cityscapes", "deeplabv3plus", "source_free"),
    ("cityscapes_to_acdc", "deeplabv3plus", "source_free"),
}
"""Every network with every protocol, and the first two shifts with each of them; `make faults` runs the others too."""


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("shift", "network", "protocol"),
    [
        pytest.param(*each, marks=[] if each in IN_EVERY_RUN else [pytest.mark.faults])
        for each in product(SHIFTS, NETWORKS, PROTOCOLS)
    ],
)
def test_a_few_steps_of_each(
    shift: str,
    network: str,
    protocol: str,
    datasets: Path,
    shared: Path,
    tmp_path: Path,
    job: Callable[[str], ModuleType],
) -> None:
    weights = ["--model.pretrained", ""] if network == "deeplabv3plus" else ["--model.backbone", "mit-b4"]
    options = ["--preset", shift, *NETWORKS[network], "--training.protocol", protocol, *weights, *TINY]
    options += ["--execution.shared_stages", str(shared)]
    assert job("run_al").main([*options, "--data_root", str(datasets), "--output_dir", str(tmp_path / "run")]) == 0
    rows = read_metrics(Storage(str(tmp_path / "run")))
    assert [row["round"] for row in rows] == [0, 1]
    # 4 % of 64x128 pixels in regions of nine, in each of the pool's images.
    assert rows[1]["regions"] == FRAMES * math.ceil(0.04 * HEIGHT * WIDTH / 9)
    assert (rows[-1]["miou_star"] is not None) == (shift == "synthia_to_cityscapes")
    assert len(rows[-1]["iou"]) == (16 if shift == "synthia_to_cityscapes" else 19)


def test_weights_that_are_not_there_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], job: Callable[[str], ModuleType]
) -> None:
    """Nobody trains from random weights unawares."""
    options = ["--preset", "gtav_to_cityscapes", "--data_root", str(tmp_path), "--output_dir", str(tmp_path / "run")]
    assert job("run_al").main([*options, "--execution.device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "model.pretrained" in said
    assert "resnet101-5d3b4d8f.pth" in said
