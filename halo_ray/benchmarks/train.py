"""The training loop against a bare PyTorch loop, and a training step against the official one."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from halo_ray.benchmarks.compare import compare
from halo_ray.benchmarks.measurement import Line, Measurement
from halo_ray.benchmarks.official_step import OfficialStep
from halo_ray.benchmarks.scenes import store_scenes
from halo_ray.benchmarks.settings import CLASSES, CURVATURE, EMBEDDING, check
from halo_ray.data.classes import IGNORE
from halo_ray.data.samples import PointTensors, Samples
from halo_ray.errors import InputError, one_line
from halo_ray.models.build import ModelConfig, build_model
from halo_ray.models.segmenter import Segmenter
from halo_ray.training.config import TrainingConfig
from halo_ray.training.losses import LossConfig, Losses
from halo_ray.training.optimizers import Optimizers

BOUGHT = 0.05
"""Share of labelled pixels in pool images of a step: the official budget."""


@dataclass(frozen=True)
class TrainBenchmark:
    """Samples a second of training on Ray, and the time of a step."""

    images: int = 64
    """Rendered street scenes, stored as files."""
    height: int = 512
    """Rows of a stored image in pixels."""
    width: int = 1024
    """Columns of a stored image in pixels."""
    image_format: Literal["png", "jpg"] = "jpg"
    """How the images are stored; labels are always PNG."""
    input_height: int = 256
    """Rows of the network's input."""
    input_width: int = 512
    """Columns of the network's input."""
    backbone: str = "mobilenet-v2"
    """Backbone of the network that is trained on Ray."""
    batch: int = 4
    """Images of a step on Ray."""
    steps: int = 40
    """Steps that are timed on Ray."""
    warm_up: int = 20
    """Steps before those."""
    workers: int = 0
    """Training processes of Ray Train; 0: its local mode."""
    runs: int = 3
    """Processes of either kind, in turn; the medians are compared. 0: only steps are timed."""
    step_backbones: tuple[str, ...] = ("mobilenet-v2", "resnet-101")
    """Backbones of DeepLabV3+ whose steps are timed; mit-b0 to mit-b5 get SegFormer's head."""
    step_height: int = 256
    """Rows of the pool images of a timed step; source images have 9/8 of them, as the official 720 of 640."""
    step_width: int = 512
    """Columns of the images of a timed step."""
    step_batch: int = 2
    """Source images of a timed step, and pool images beside them."""
    repeats: int = 5
    """Timed steps of either kind."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of our timed steps; bfloat16 is autocast."""
    threads: int = 1
    """Torch threads of a training process on Ray; timed steps take all that there are."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where it is measured."""

    def __post_init__(self) -> None:
        least = dict.fromkeys(("images", "steps", "warm_up", "step_batch", "repeats", "threads"), 1)
        sizes = ("input_height", "input_width", "step_height", "step_width")
        check(self, {**least, "batch": 2, "runs": 0, "workers": 0}, self.device, sizes)


def benchmark_train(settings: TrainBenchmark) -> Iterator[Line]:
    """Lines of the report, as they are measured."""
    name = torch.cuda.get_device_name() if settings.device == "cuda" else "CPU"
    yield f"{name}, torch {torch.__version__}"
    if settings.runs:
        yield _loops(settings)
    for backbone in settings.step_backbones:
        yield from _steps(settings, backbone)


def _loops(settings: TrainBenchmark) -> Measurement:
    """Either loop in processes of their own, in turn."""
    with tempfile.TemporaryDirectory(prefix="halo_ray-") as folder:
        size = {"height": settings.height, "width": settings.width}
        store_scenes(Path(folder), settings.images, **size, image_format=settings.image_format)
        found: dict[str, list[float]] = {"ray": [], "bare": []}
        for number in range(settings.runs):
            for kind in ("ray", "bare") if number % 2 == 0 else ("bare", "ray"):
                found[kind].append(_process(kind, settings, folder))
    ray, bare = (statistics.median(found[kind]) for kind in ("ray", "bare"))
    process = f"{settings.workers} workers" if settings.workers else "local mode"
    name = f"{settings.backbone}, {settings.input_height}x{settings.input_width}, {settings.batch} images a step"
    line = (
        f"{name}, {settings.threads} threads: Ray Train ({process}) with Ray Data {ray:.2f} samples a second, "
        f"a bare loop with a DataLoader {bare:.2f}: {ray / bare:.2f} of it (medians of {settings.runs})"
    )
    return Measurement(line, f"training loop, {name}", ray, bare, "samples/s", ray / bare, "bare loop")


def _process(kind: str, settings: TrainBenchmark, folder: str) -> float:
    """Samples a second of one loop in a fresh process."""
    told = json.dumps({**asdict(settings), "kind": kind, "folder": folder})
    command = [sys.executable, "-m", "halo_ray.benchmarks.train_loops"]
    done = subprocess.run(command, input=told, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"the {kind} loop ended with {done.returncode}: {one_line(RuntimeError(done.stderr[-500:]))}")
    return float(done.stdout.splitlines()[-1])


def _steps(settings: TrainBenchmark, backbone: str) -> Iterator[Line]:
    """Our training step and the official one, on the same weights and samples."""
    torch.manual_seed(0)
    model = network(backbone).to(settings.device).train()
    parts = samples(settings)
    ours = OurStep(model, parts, settings.precision == "bfloat16")
    other = network(backbone).to(settings.device).train()
    other.load_state_dict(model.state_dict())
    official = OfficialStep(other, parts)
    shape = f"{settings.step_batch} + {settings.step_batch} images of {settings.step_width}x{settings.step_height}"
    for anomaly in (True, False):

        def theirs(anomaly: bool = anomaly) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is slow
                with torch.autograd.detect_anomaly() if anomaly else nullcontext():
                    official()

        time = compare(ours, theirs, repeats=settings.repeats, device=settings.device)
        said = "with" if anomaly else "without"
        name = f"step of {backbone}, {shape}, {settings.precision}"
        yield Measurement(
            f"{name}: {time.ours:.2f} s, official step {said} anomaly detection {time.other:.2f} s: {time.ratio:.2f} "
            "times faster",
            f"{name}, official one {said} anomaly detection",
            time.ours,
            time.other,
            "s",
            time.ratio,
            "official procedure",
        )


class OurStep:
    """A step as the training loop takes it."""

    def __init__(self, model: Segmenter, parts: list[Samples], autocasts: bool) -> None:
        config = TrainingConfig(optimizer="sgd", losses=LossConfig(negative=1.0), head_factor=10.0, weight_decay=5e-4)
        self._model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._parts, self._autocasts = parts, autocasts
        self._losses, self._optimizers = Losses(config.losses), Optimizers(model, config, 1e-4)
        self._optimizers.set_factor(1.0)

    def __call__(self) -> Tensor:
        """The loss."""
        counts = self._losses.counts(self._parts)
        with torch.autocast(self._parts[0].labels.device.type, torch.bfloat16, enabled=self._autocasts):
            said = [self._model(part.images).logits for part in self._parts]
        loss, _ = self._losses(said, self._parts, counts)
        loss.backward()  # type: ignore[no-untyped-call]
        if torch.isfinite(self._optimizers.clip(None)):
            self._optimizers.step()
        self._optimizers.zero_grad()
        return loss.detach()


def network(backbone: str) -> Segmenter:
    """The official networks: DeepLabV3+ at output stride 8 with HFR, or SegFormer without."""
    if backbone.startswith("mit"):
        config = ModelConfig(backbone=backbone, decoder="segformer", embedding=768, curvature=CURVATURE)
    else:
        config = ModelConfig(
            backbone=backbone,
            output_stride=8 if backbone in ("resnet-50", "resnet-101") else None,
            decoder="deeplabv3plus",
            hfr="official",
            frozen_batch_norm=True,
            embedding=EMBEDDING,
            curvature=CURVATURE,
        )
    return build_model(config, CLASSES)


def samples(settings: TrainBenchmark) -> list[Samples]:
    """Source images with dense labels, and pool images with bought pixels."""
    number, device = settings.step_batch, settings.device
    none = PointTensors(*(torch.empty(0, dtype=kind, device=device) for kind in _POINT_TYPES))
    parts = []
    for height, sources in ((settings.step_height * 9 // 8 // 32 * 32, number), (settings.step_height, 0)):
        images = torch.randint(0, 256, (number, height, settings.step_width, 3), dtype=torch.uint8, device=device)
        labels = torch.randint(0, CLASSES, images.shape[:3], dtype=torch.uint8, device=device)
        labels[:, : height // 20] = IGNORE
        points = none
        if not sources:
            points = _bought(number, height, settings.step_width, device)
        parts.append(Samples(images, labels[:sources], points, sources, (height, settings.step_width)))
    return parts


def _bought(images: int, height: int, width: int, device: str) -> PointTensors:
    """Pixels of each image, none of them twice."""
    chosen = [torch.randperm(height * width, device=device)[: int(BOUGHT * height * width)] for _ in range(images)]
    image = torch.arange(images, device=device).repeat_interleave(len(chosen[0]))
    pixel = torch.cat(chosen)
    labels = torch.randint(0, CLASSES, pixel.shape, dtype=torch.uint8, device=device)
    return PointTensors(image, pixel // width / (height - 1), pixel % width / (width - 1), labels)


_POINT_TYPES = torch.int64, torch.float32, torch.float32, torch.uint8
