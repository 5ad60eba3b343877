"""What a sweep tries: curvature × budget × acquisition function × seed, around one configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from halo_ray.config import Config, config_to_yaml, identity
from halo_ray.context import finished_rounds
from halo_ray.errors import InputError
from halo_ray.storage import Storage

FLOOR = "random"
"""The acquisition function that every sweep has: what the others must beat."""

SWEPT = ("seed", "model.curvature", "acquisition.budget", "acquisition.function")

FINISHED, STOPPED, OPEN = "finished", "stopped", "open"
"""Of a trial: all rounds are done, the scheduler stopped it, or it was not begun, failed or was interrupted."""

_FILE = "sweep.json"


@dataclass(frozen=True)
class Point:
    """What one trial sets."""

    curvature: float
    budget: float
    acquisition: str
    seed: int

    @property
    def name(self) -> str:
        """Of the trial's directory."""
        return f"c{self.curvature!r}-b{self.budget!r}-{self.acquisition}-s{self.seed}"


@dataclass(frozen=True)
class SearchSpace:
    """The values that are crossed; seeds are 0, 1, ... and the same in all cells, so that differences are paired."""

    curvature: tuple[float, ...]
    budget: tuple[float, ...]
    acquisition: tuple[str, ...]
    seeds: int

    @classmethod
    def of(
        cls, base: Config, curvature: Iterable[float], budget: Iterable[float], acquisition: Iterable[str], seeds: int
    ) -> SearchSpace:
        """The space of those values; where there are none, that of ``base``. FLOOR is always among the functions.

        Raises:
            InputError: a value cannot be used, or the model has no curvature to sweep.
        """
        names = dict.fromkeys(acquisition) or {base.acquisition.function: None}
        space = cls(
            curvature=tuple(dict.fromkeys(curvature)) or (base.model.curvature,),
            budget=tuple(sorted(dict.fromkeys(budget))) or (base.acquisition.budget,),
            acquisition=(*names, *([] if FLOOR in names else [FLOOR])),
            seeds=seeds,
        )
        if seeds < 1:
            raise InputError(f"--seeds is {seeds}: it must be at least 1")
        if not base.rounds:
            raise InputError(
                f"training.protocol {base.training.protocol} buys nothing: sweep source_target or source_free"
            )
        if base.model.geometry == "euclidean" and len(space.curvature) > 1:
            raise InputError("--curvature: a Euclidean model has none: leave it out, or set model.geometry")
        for point in space.points():
            configure(base, point)
        return space

    def points(self) -> list[Point]:
        """All trials; those of a curvature and seed, which share the most, after each other."""
        seeds = range(self.seeds)
        order = product(self.curvature, seeds, self.budget, self.acquisition)
        return [Point(curvature, budget, acquisition, seed) for curvature, seed, budget, acquisition in order]

    def leaders(self) -> list[Point]:
        """For each curvature and seed the trial with the largest budget: its first scoring pass serves the others."""
        most, first = max(self.budget), self.acquisition[0]
        return [Point(curvature, most, first, seed) for curvature, seed in product(self.curvature, range(self.seeds))]


def configure(base: Config, point: Point) -> Config:
    """The configuration of a trial.

    Raises:
        InputError: a value of the point cannot be used.
    """
    return replace(
        base,
        output_dir=Storage(base.output_dir).below(f"trials/{point.name}").uri,
        seed=point.seed,
        model=replace(base.model, curvature=point.curvature),
        acquisition=replace(base.acquisition, budget=point.budget, function=point.acquisition),
        execution=replace(
            base.execution,
            shared_stages=base.execution.shared_stages or Storage(base.output_dir).below("shared").uri,
        ),
    )


def stopped_file(point: Point) -> str:
    """Says that a trial was stopped before its last round, and after which."""
    return f"stopped/{point.name}.json"


def status(base: Config, point: Point) -> str:
    """How a trial stands: FINISHED, STOPPED or OPEN."""
    if finished_rounds(configure(base, point)) is not None:
        return FINISHED
    return STOPPED if Storage(base.output_dir).exists(stopped_file(point)) else OPEN


def open_sweep(base: Config, space: SearchSpace) -> Storage:
    """The directory of a sweep, begun now or before.

    Raises:
        InputError: it holds another sweep, or an experiment, or cannot be written to.
    """
    storage = Storage(base.output_dir)
    storage.check_writable()
    if base.execution.shared_stages is not None:
        Storage(base.execution.shared_stages).check_writable("execution.shared_stages")
    if storage.exists("stages"):
        raise InputError(f"{storage.uri} holds an experiment, not a sweep: name another output_dir")
    # As texts: JSON has no infinity, which some settings are.
    fixed = {key: str(value) for key, value in identity(base).items() if key not in SWEPT}
    now: dict[str, Any] = {"space": _as_json(space), "fixed": fixed}
    if not storage.exists(_FILE):
        storage.write_json(_FILE, now)
        storage.write("base.yaml", config_to_yaml(base).encode())
        return storage
    before = storage.read_json(_FILE)
    told = [
        f"--{key} (there {', '.join(map(str, values)) if isinstance(values, list) else values})"
        for key, values in before["space"].items()
        if values != now["space"].get(key)
    ]
    told += [f"{key} (there {value})" for key, value in before["fixed"].items() if fixed.get(key) != value]
    if told:
        raise InputError(
            f"{storage.uri} holds another sweep, with other {', '.join(told)}: name another output_dir or change them "
            "back"
        )
    return storage


def _as_json(space: SearchSpace) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(space).items()}
