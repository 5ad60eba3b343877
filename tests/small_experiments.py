"""Experiments that are as small as they come, and what tests ask of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import halo_ray.experiment
import halo_ray.inspected
from halo_ray.acquisition.budget import AcquisitionConfig
from halo_ray.checkpoint import load_model
from halo_ray.config import Config
from halo_ray.data.manifest import DataConfig
from halo_ray.data.readers import SplitConfig
from halo_ray.execution import ExecutionConfig
from halo_ray.models.build import ModelConfig
from halo_ray.storage import Storage
from halo_ray.training.config import TrainingConfig


def small_config(root: Path, output_dir: Path) -> Config:
    def split(name: str) -> SplitConfig:
        return SplitConfig(reader="folder", images=f"{name}/images/*.jpg", labels=f"{name}/labels/*.png")

    return Config(
        output_dir=str(output_dir),
        data_root=str(root),
        data=DataConfig(
            source=split("day"),
            pool=split("night"),
            validation=split("check"),
            class_set=str(root / "classes.yaml"),
            height=64,
            width=96,
        ),
        model=ModelConfig(embedding=8, decoder_width=16),
        acquisition=AcquisitionConfig(budget=0.02, rounds=2, exclusion_radius=3),
        training=TrainingConfig(
            pretrain_steps=4, round_steps=2, source_batch=2, target_batch=2, warmup_steps=1, control=True
        ),
        execution=ExecutionConfig(num_workers=0, max_actors=0),
    )


FEATURES = "features"
"""Directory of an experiment or an entry that holds them."""

PIXELS = 6 * 72 * 100
"""Of the pool."""

PRETRAINED = "pretrain/checkpoint"

Calls = list[tuple[str, object]]


def small(root: Path, output_dir: Path, **execution: object) -> Config:
    """An experiment of two rounds with a twin, as small as they come."""
    config = small_config(root, output_dir)
    return replace(
        config,
        acquisition=replace(config.acquisition, function="random"),
        training=replace(config.training, pretrain_steps=2, schedule="cosine"),
        execution=replace(config.execution, **execution),
    )


def changed(config: Config, key: str, value: object) -> Config:
    """``config`` with another value of a dotted key."""
    section, _, rest = key.partition(".")
    return replace(config, **{section: changed(getattr(config, section), rest, value) if rest else value})


def tree(directory: str | Path) -> dict[str, str]:
    """The digests of all files below a directory."""
    root, files = Path(directory), (path for path in Path(directory).rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def kept(directory: str | Path) -> dict[str, str]:
    """The same without the locks, of which every run adds one."""
    return {name: digest for name, digest in tree(directory).items() if not name.startswith("lock/")}


def entries(store: str | Path) -> Counter[str]:
    """How many results there are of each stage."""
    return Counter(path.parent.name.rpartition("-")[0] for path in Path(store).glob("*/stage.json"))


def difference(one: Storage, other: Storage, name: str) -> float:
    """The largest between the weights of a checkpoint in two places."""
    first, second = (load_model(storage, name).state_dict() for storage in (one, other))
    return max(float((first[key].double() - second[key].double()).abs().max()) for key in first)


@contextmanager
def computed() -> Iterator[Calls]:
    """What is computed meanwhile: names of the stages' functions, and what each call says that it is for."""
    calls: Calls = []

    def counted(name: str, work: Callable[..., Any], *args: Any, **how: Any) -> Any:
        calls.append((name, args[1] if name in ("train", "score_pool", "evaluate") else None))
        return work(*args, **how)

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (halo_ray.experiment, "train"),
            (halo_ray.experiment, "score_pool"),
            (halo_ray.experiment, "evaluate"),
            (halo_ray.experiment, "compute_features"),
            (halo_ray.inspected, "inspect_splits"),
        ):
            patch.setattr(module, name, partial(counted, name, getattr(module, name)))
        yield calls


@dataclass(frozen=True)
class Shared:
    """A leader with twice the budget, which was only prepared, and a follower and a loner, which are the same."""

    store: Path
    leader: Config
    follower: Config
    alone: Config
    prepared: Calls
    """What the leader computed."""
    ran: Calls
    """What the follower computed."""
    entries: Counter[str]
    """Of the store when both had ended."""


def leading(config: Config) -> Config:
    """The same for twice the budget and another function."""
    config = changed(config, "acquisition", replace(config.acquisition, function="halo", budget=0.04))
    return changed(config, "execution.compare_functions", ("random",))
