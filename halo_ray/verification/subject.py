"""The experiment that is verified: what its configuration, plan, classes, manifests and markers say."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from halo_ray.acquisition.budget import AcquisitionConfig, RoundPlan, image_limit
from halo_ray.annotations.oracles import GROUND_TRUTH
from halo_ray.config import Config
from halo_ray.data.classes import ClassSet, stored_class_set
from halo_ray.errors import InputError
from halo_ray.stages import KEYS, marker_file
from halo_ray.stored_config import CLASSES, CONFIG, PLAN, read_stored_config
from halo_ray.verification.findings import Findings
from halo_ray.verification.reader import RESTORE, Reader

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pool:
    """The images of the pool, by their row of the manifest."""

    ids: pa.ChunkedArray
    height: Ints
    """(images,), in pixels."""
    width: Ints
    """(images,), in pixels."""

    @property
    def pixels(self) -> int:
        """Of all images."""
        return int((self.height * self.width).sum())

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each image."""
        return list(zip(self.height.tolist(), self.width.tolist(), strict=True))

    def rows(self, image_ids: pa.ChunkedArray) -> Ints:
        """(N,) rows of images by their id; −1 where the pool has none of that id."""
        found: Ints = pc.fill_null(pc.index_in(image_ids, self.ids.combine_chunks()), -1).to_numpy().astype(np.int64)
        return found

    def id(self, row: int) -> str:
        return str(self.ids[int(row)].as_py())

    def limits(self, config: AcquisitionConfig, plan: RoundPlan) -> Ints:
        """(images,): the most regions of each image in a round of that plan."""
        sizes, pixels = self.sizes, self.pixels
        of_size = {size: image_limit(config, size, plan, pixels) for size in set(sizes)}
        return np.array([of_size[size] for size in sizes], np.int64)


@dataclass
class Subject:
    """An experiment and what is known of it; None where that could not be read, which was said then."""

    reader: Reader
    config: Config | None = None
    """As config.yaml says, but for the names of acquisition functions and oracle: those may be code."""
    function: str | None = None
    """The acquisition function that buys."""
    oracle: str | None = None
    """Who labels."""
    budget: float | None = None
    """Of the plan, in units of acquisition.budget_unit."""
    plan: list[RoundPlan] | None = None
    classes: ClassSet | None = None
    pool: Pool | None = None
    done: set[str] = field(default_factory=set)
    """Stages that have a marker."""
    running: bool = False
    """Whether a run may be working on it."""
    experiment: str | None = None
    """What most of its files say that names it."""
    checksums: dict[str, str] = field(default_factory=dict)
    """By directory of a checkpoint, what names its weights in the ledger."""

    @property
    def findings(self) -> Findings:
        return self.reader.findings

    @property
    def rounds(self) -> int:
        """How many rounds buy labels, as far as that is known."""
        if self.plan is not None:
            return len(self.plan)
        named = [name.split("/")[1] for name in self.done if name.startswith("rounds/")]
        return max((int(number) for number in named if number.isdigit()), default=0)

    @property
    def answers_all(self) -> bool:
        """Whether every region that is asked has an answer, for all of its pixels; others may leave some out."""
        return self.oracle == GROUND_TRUTH

    @property
    def acquisition(self) -> AcquisitionConfig | None:
        return None if self.config is None else self.config.acquisition

    def marker(self, stage: str) -> dict[str, Any] | None:
        """The marker of a stage; None where it is not done, or its marker is damaged or another stage's."""
        if stage not in self.done:
            return None
        marker = self.reader.sealed(marker_file(stage), KEYS)
        if marker is not None and marker["stage"] != stage:
            self.findings.add(marker_file(stage), f"is the marker of {marker['stage']}: {RESTORE}")
            return None
        return marker

    def result(self, stage: str) -> Any:
        """What a stage that is done gave; None where there is no marker() of it."""
        marker = self.marker(stage)
        return None if marker is None else marker["result"]

    def round_plan(self, number: int) -> RoundPlan | None:
        return self.plan[number - 1] if self.plan is not None and 0 < number <= len(self.plan) else None


def read_plan(subject: Subject) -> None:
    """Reads plan.json."""
    reader = subject.reader
    found = reader.sealed(PLAN, ("experiment", "budget", "rounds"))
    if found is None:
        return
    with reader.understanding(PLAN):
        subject.budget = float(found["budget"])
        plan = [RoundPlan(**entry) for entry in found["rounds"]]
        if not all(type(each.regions) is int and isinstance(each.share, str) for each in plan):
            raise TypeError("regions are whole numbers, shares are fractions")
        subject.plan = plan


def read_classes(subject: Subject) -> None:
    """Reads classes.json."""
    found = subject.reader.sealed(CLASSES, [item.name for item in fields(ClassSet)])
    if found is None:
        return
    with subject.reader.understanding(CLASSES):
        try:
            subject.classes = stored_class_set(found)
        except InputError as error:
            raise ValueError(str(error)) from error


def read_config(subject: Subject) -> None:
    """Reads config.yaml as data: what it names (functions, images, weights) is neither imported nor opened."""
    reader = subject.reader
    text = reader.read(CONFIG)
    if text is None:
        return
    with reader.understanding(CONFIG):
        found = read_stored_config(text)
        subject.config, subject.function, subject.oracle = found.config, found.function, found.oracle
