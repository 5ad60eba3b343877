"""Who labels what is asked, and when enough of it is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from halo_ray.annotations.oracles import FILES, ORACLES, own_oracle
from halo_ray.bounds import Range, check_ranges


@dataclass(frozen=True)
class AnnotationConfig:
    """Who labels the regions."""

    oracle: str = "ground_truth"
    """ground_truth (looks them up in the pool's label files: a simulated annotator), files (people: each round writes
    what it asks below requests/ and ends with exit code 3, the same command reads their answers), or the dotted path
    of your own (package.module.function)."""
    accept_share: Annotated[float, Range(1e-9, 1)] = 0.9
    """Share of a round's regions that must be answered before the run goes on. Others are not paid for, and may be
    asked again in a later round. May change when a run is resumed."""
    last_answer_wins: bool = False
    """Oracle files: of answers to one region that disagree the last one counts, in the order of the files' names;
    false: none does, and they are listed. May change when a run is resumed."""

    def __post_init__(self) -> None:
        check_ranges(self, "annotation.")
        if self.oracle not in ORACLES:
            own_oracle(self.oracle)

    @property
    def asks_people(self) -> bool:
        """Whether the run ends at each round to wait for them."""
        return self.oracle == FILES
