"""What a sweep tries: curvature × budget × acquisition function × seed, around one configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, ClassVar, Protocol

from halo_ray.bounds import Range
from halo_ray.config import Config
from halo_ray.errors import InputError
from halo_ray.storage import Storage

FLOOR = "random"
"""The acquisition function that every sweep has: what the others must beat."""

SEEDS = Range(1, 10_000)
"""How many seeds a sweep or a table of a study may have."""

SWEPT = ("seed", "model.curvature", "acquisition.budget", "acquisition.function")

TRIALS, SHARED = "trials", "shared"
"""Directories of a sweep: its experiments, and what they share where no other place is named."""


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
        SEEDS.check("--seeds", seeds)
        if not base.rounds:
            raise InputError(
                f"training.protocol {base.training.protocol} buys nothing: sweep source_target or source_free"
            )
        if base.model.geometry == "euclidean" and len(space.curvature) > 1:
            raise InputError("--curvature: a Euclidean model has none: leave it out, or set model.geometry")
        for point in space.points():
            configure(base, point)
        return space

    @classmethod
    def stored(cls, told: Mapping[str, Any]) -> SearchSpace:
        """The space of which ``told`` was read; KeyError or TypeError where that is none."""
        curvature, budget, acquisition = (tuple(told[key]) for key in ("curvature", "budget", "acquisition"))
        return cls(curvature, budget, acquisition, int(told["seeds"]))

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
        output_dir=Storage(base.output_dir).below(f"{TRIALS}/{trial.name}").uri,
        execution=replace(
            base.execution,
            shared_stages=base.execution.shared_stages or Storage(base.output_dir).below(SHARED).uri,
        ),
    )


def as_texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """As they can stand in JSON, which has no infinity, which some settings are."""
    return {key: str(value) for key, value in settings.items()}
