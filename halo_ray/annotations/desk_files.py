"""The files of a desk: what it deals out, what was answered, and who has which region."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from halo_ray.annotations.folder import CANT_TELL, LIST, PAGE, round_of
from halo_ray.data.classes import ClassSet
from halo_ray.errors import InputError
from halo_ray.parallel_reads import read_all
from halo_ray.patience import StorageError
from halo_ray.storage import DIGEST, Storage, digest_of

T = TypeVar("T")

STATE = "page.json"


@dataclass(frozen=True)
class Asked:
    """A region as the list of requests has it."""

    id: str
    image: str
    y: int
    x: int
    r: int
    pixels: int
    """How many pixels its template asks for in its square."""
    why: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """One that was given at the desk."""

    id: str
    label: str
    """Name of a class, or CANT_TELL[0]."""
    by: str
    """The annotator's page."""
    order: int
    """Rises with every answer."""

    def data(self) -> bytes:
        """The list of one line that says so to whoever reads the answers, with its digest."""
        told = asdict(self)
        return (json.dumps({**told, DIGEST: digest_of(told)}) + "\n").encode()


@dataclass
class State:
    """What is under way at the desk."""

    out: dict[str, str] = field(default_factory=dict)
    """The region that each annotator looks at."""
    skipped: dict[str, dict[str, None]] = field(default_factory=dict)
    """Those that each annotator has skipped, in that order."""
    turns: dict[str, str] = field(default_factory=dict)
    """The last request of each annotator that must not be done twice."""


def answer_file(region_id: str) -> str:
    return f"{PAGE}/{region_id}.jsonl"


def read_requests(place: Storage, number: int) -> dict[str, Asked]:
    """The regions of round ``number`` by their ids, in the order of the list.

    Raises:
        InputError: the list is gone or damaged.
    """
    data = place.read_checked(LIST)
    try:
        found = {each.id: each for each in (_checked(Asked, json.loads(line)) for line in data.splitlines())}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise place.damaged(LIST, error) from error
    if any(round_of(region_id) != number for region_id in found):
        raise place.damaged(LIST, f"it is not that of round {number}")
    return found


def read_answers_of_page(place: Storage, classes: ClassSet, regions: dict[str, Asked]) -> dict[str, Answer]:
    """What was answered, by region.

    Raises:
        InputError: a file is damaged, or none that a page of this round wrote.
    """
    found, labels = {}, {*classes.classes, CANT_TELL[0]}
    # Names that begin with a dot are no answers: a run's marker, and what some file managers leave.
    names = [name for name in place.files(PAGE) if not name.rpartition("/")[2].startswith(".")]
    for name, data in read_all(place, names):
        try:
            each = _checked(Answer, json.loads(data))
            whole = each.data() == data and answer_file(each.id) == name
        except (ValueError, KeyError, TypeError, RecursionError):
            whole = False
        if not whole or each.id not in regions or each.label not in labels:
            raise InputError(
                f"{place.uri}/{name} is no answer that this round's page wrote, or is damaged: restore it, or move it "
                "away; lists of your own go one directory up"
            )
        found[each.id] = each
    return found


def read_state(place: Storage, regions: dict[str, Asked]) -> State:
    """What was under way when the desk was left; of regions of this round.

    Raises:
        InputError: its file is damaged.
    """
    try:
        found = place.read_sealed(STATE)
    except FileNotFoundError:
        return State()
    except StorageError:
        raise
    except InputError as error:
        raise InputError(
            f"{str(error).partition(': restore')[0]}: restore it, or delete it, which forgets who had which region and "
            "what was skipped, but no answer"
        ) from error
    out = {who: each for who, each in found["out"].items() if each in regions}
    return State(out, {who: dict.fromkeys(ids) for who, ids in found["skipped"].items()}, found["turns"])


def write_state(place: Storage, state: State) -> None:
    skipped = {who: [*ids] for who, ids in state.skipped.items()}
    place.write_sealed(STATE, {"out": state.out, "skipped": skipped, "turns": state.turns})


_KINDS = {"str": str, "int": int, "dict[str, Any]": dict}


def _checked(kind: type[T], found: Any) -> T:
    """Fields of a dataclass from an object that may have others too; raises KeyError or TypeError."""
    wanted = {name: _KINDS[str(each.type)] for name, each in kind.__dataclass_fields__.items()}  # type: ignore[attr-defined]
    values = {name: found[name] for name in wanted}
    if any(type(values[name]) is not what for name, what in wanted.items()):
        raise TypeError("a value is of another type")
    return kind(**values)
