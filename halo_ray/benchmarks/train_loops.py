"""One side of the training benchmark, in a process of its own: reads its settings from stdin, prints samples a second.

echo SETTINGS | python -m halo_ray.benchmarks.train_loops
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import geoopt
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler

from halo_ray.config import Config
from halo_ray.context import open_experiment
from halo_ray.data.manifest import DataConfig
from halo_ray.data.readers import SplitConfig
from halo_ray.data.transforms import AugmentationConfig
from halo_ray.execution import ExecutionConfig
from halo_ray.models.build import ModelConfig, build_model
from halo_ray.training.config import TrainingConfig
from halo_ray.training.stage import train

CLASSES = 11
"""Of the rendered scenes."""

RATE, DECAY = 1e-4, 1e-4


def ray_loop(settings: dict[str, Any], folder: str) -> float:
    """Samples a second of the training stage of an experiment on these files."""
    shown = f"images/*.{settings['image_format']}"
    split = SplitConfig(reader="folder", images=shown, labels="labels/*.png")
    few = Path(folder, "few.txt")
    few.write_text("0000\n")
    rest = SplitConfig(reader="folder", images=shown, labels="labels/*.png", list_file="few.txt")
    other = SplitConfig(reader="synthetic", split="target", scenes=1, height=64, width=64)
    half = settings["batch"] // 2
    config = Config(
        output_dir=f"{folder}/experiment-{time.time_ns()}",
        data_root=folder,
        data=DataConfig(
            source=split,
            pool=rest,
            validation=other,
            class_set="synthetic",
            height=settings["input_height"],
            width=settings["input_width"],
        ),
        model=ModelConfig(backbone=settings["backbone"]),
        training=TrainingConfig(
            protocol="source_only",
            pretrain_steps=settings["warm_up"] + settings["steps"],
            source_batch=settings["batch"] - half,
            target_batch=half,
            learning_rate=RATE,
            weight_decay=DECAY,
            warmup_steps=0,
            augment=AugmentationConfig(color_jitter=0),
            deterministic=False,
            precision="float32",
            threads=settings["threads"],
        ),
        execution=ExecutionConfig(
            device=settings["device"], num_workers=settings["workers"], log_steps=settings["warm_up"]
        ),
    )
    with open_experiment(config) as context:
        return float(train(context, "pretrain/checkpoint", start=None)["samples_per_second"])


class Scenes(Dataset[tuple[Tensor, Tensor]]):
    """Images and labels as a plain PyTorch program reads them: decoded, resized, half of them mirrored."""

    def __init__(self, folder: str, image_format: str, size: tuple[int, int]) -> None:
        self._images = sorted(Path(folder, "images").glob(f"*.{image_format}"))
        self._labels = sorted(Path(folder, "labels").glob("*.png"))
        self._shape = (size[1], size[0])

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = Image.open(self._images[index]).convert("RGB").resize(self._shape, Image.Resampling.BILINEAR)
        label = Image.open(self._labels[index]).resize(self._shape, Image.Resampling.NEAREST)
        if torch.rand(()) < 0.5:
            image, label = (each.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for each in (image, label))
        return torch.from_numpy(np.array(image)), torch.from_numpy(np.array(label))


def bare_loop(settings: dict[str, Any], folder: str) -> float:
    """Samples a second of a plain loop with as many processes and threads."""
    torch.set_num_threads(settings["threads"])
    device, steps = settings["device"], settings["warm_up"] + settings["steps"]
    size = settings["input_height"], settings["input_width"]
    model = build_model(ModelConfig(backbone=settings["backbone"]), CLASSES).to(device).train()
    optimizer = geoopt.optim.RiemannianAdam(model.parameters(), lr=RATE, weight_decay=DECAY)
    scenes = Scenes(folder, settings["image_format"], size)
    batches = DataLoader(
        scenes,
        settings["batch"],
        sampler=RandomSampler(scenes, replacement=True, num_samples=steps * settings["batch"]),
        num_workers=1,
        pin_memory=device != "cpu",
    )
    begin = 0.0
    for step, (images, labels) in enumerate(batches):
        if step == settings["warm_up"]:
            begin = time.perf_counter()
        logits = model(images.to(device)).logits
        full = F.interpolate(logits, size=size, mode="bilinear", align_corners=True)
        loss = F.cross_entropy(full, labels.to(device).long(), ignore_index=255)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if device != "cpu":
        torch.cuda.synchronize()
    return float(settings["steps"] * settings["batch"] / (time.perf_counter() - begin))


if __name__ == "__main__":
    told = json.loads(sys.stdin.read())
    print({"ray": ray_loop, "bare": bare_loop}[told["kind"]](told, told["folder"]))
