"""What a sweep tries: curvature × budget × acquisition function × seed, around one configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, ClassVar, Protocol

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


class Trial(Protocol):
    """One experiment of a sweep."""

    @property
    def name(self) -> str:
        """Of the trial's directory."""

    def set(self, base: Config) -> Config:
        """``base`` with what the trial sets; raises InputError where a value cannot be used."""


class Space(Protocol):
    """The trials of a sweep."""

    swept: ClassVar[tuple[str, ...]]
    """Identity keys that trials set, whatever the configuration around which they lie says."""

    def points(self) -> Sequence[Trial]:
        """All trials; those that share the most after each other."""

    def leaders(self, base: Config) -> Sequence[tuple[Trial, tuple[str, ...]]]:
        """For each pretrained model a trial whose first scoring pass serves others, and the functions of those."""

    def told(self) -> dict[str, Any]:
        """What must be the same when the sweep is resumed, by option of the command line; JSON-able."""


@dataclass(frozen=True)
class Point:
    """What one trial of a SearchSpace sets."""

    curvature: float
    budget: float
    acquisition: str
    seed: int

    @property
    def name(self) -> str:
        """Of the trial's directory."""
        return f"c{self.curvature!r}-b{self.budget!r}-{self.acquisition}-s{self.seed}"

    def set(self, base: Config) -> Config:
        """``base`` with these values; raises InputError where one cannot be used."""
        return replace(
            base,
            seed=self.seed,
            model=replace(base.model, curvature=self.curvature),
            acquisition=replace(base.acquisition, budget=self.budget, function=self.acquisition),
        )


@dataclass(frozen=True)
class SearchSpace:
    """The values that are crossed; seeds are 0, 1, ... and the same in all cells, so that differences are paired."""

    curvature: tuple[float, ...]
    budget: tuple[float, ...]
    acquisition: tuple[str, ...]
    seeds: int

    swept: ClassVar[tuple[str, ...]] = SWEPT

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

    def leaders(self, base: Config) -> list[tuple[Point, tuple[str, ...]]]:
        """For each curvature and seed the trial with the largest budget: its first scoring pass serves the others."""
        most, (first, *others) = max(self.budget), self.acquisition
        crossed = product(self.curvature, range(self.seeds))
        return [(Point(curvature, most, first, seed), tuple(others)) for curvature, seed in crossed]

    def told(self) -> dict[str, Any]:
        """The values, in lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def configure(base: Config, trial: Trial) -> Config:
    """The configuration of a trial.

    Raises:
        InputError: a value of it cannot be used.
    """
    return replace(
        trial.set(base),
        output_dir=Storage(base.output_dir).below(f"trials/{trial.name}").uri,
        execution=replace(
            base.execution,
            shared_stages=base.execution.shared_stages or Storage(base.output_dir).below("shared").uri,
        ),
    )


def stopped_file(trial: Trial) -> str:
    """Says that a trial was stopped before its last round, and after which."""
    return f"stopped/{trial.name}.json"


def status(base: Config, trial: Trial) -> str:
    """How a trial stands: FINISHED, STOPPED or OPEN."""
    if finished_rounds(configure(base, trial)) is not None:
        return FINISHED
    return STOPPED if Storage(base.output_dir).exists(stopped_file(trial)) else OPEN


def as_texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """As they can stand in JSON, which has no infinity, which some settings are."""
    return {key: str(value) for key, value in settings.items()}


def open_sweep(base: Config, space: Space) -> Storage:
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
    fixed = as_texts({key: value for key, value in identity(base).items() if key not in space.swept})
    now: dict[str, Any] = {"space": space.told(), "fixed": fixed}
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
