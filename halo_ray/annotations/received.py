"""Read what people answered: filled templates and lists, each checked, and what is wrong with which file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from halo_ray.annotations.folder import (
    ANSWERS,
    CANT_TELL,
    LEAVE,
    PAGE,
    TEMPLATES,
    class_named,
    class_numbers,
    round_of,
    template_file,
)
from halo_ray.annotations.oracles import UNANSWERED, question
from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.data.images import File, read_numbers
from halo_ray.errors import BadRecordError, one_line, printable
from halo_ray.parallel_reads import read_all
from halo_ray.pipeline import arrow_batches, stream
from halo_ray.storage import DIGEST, Storage, digest_of

_READ = pa.schema([("answers", pa.list_(pa.uint8())), ("problems", pa.list_(pa.string()))])

LONGEST = 60
"""Characters of what is quoted from a list."""

LISTS = (".csv", ".jsonl")

STRAY = 0.01
"""Share of the pixels that are not asked which a brush may have touched."""

_HALF = "the file ends in the middle of a line: is it whole?"


Said = dict[str, list[tuple[str, int]]]
"""By the id of a region, where a list gives it which class (or IGNORE), in the order of the lists."""


def read_answers(
    requests: pa.Table,
    place: Storage,
    number: int,
    classes: ClassSet,
    radius: int,
    block_rows: int,
    *,
    last_wins: bool,
    of_page: dict[str, str] | None = None,
) -> tuple[pa.Table, list[str]]:
    """Requests with a column ``answers``, as oracles.question takes it, and what is wrong, a sentence each.

    Args:
        requests: a row for each image, with ids.
        place: the folder of round ``number``.
        radius: of the regions.
        last_wins: of answers that disagree the last one counts: templates, then their copies among the answers, then
            the lists in the order of their names; else none does.
        of_page: takes what each file of the page held.
    """
    ids, names = requests["ids"].to_pylist(), [template_file(each) for each in requests["image_id"].to_pylist()]
    said: Said = {region_id: [] for mine in ids for region_id in mine}
    pictures, problems = dict.fromkeys(names, ""), list[str]()
    files = [name for name in place.tree(ANSWERS) if kind_of(name) is not None]
    problems += read_lists(place, files, number, classes, said, of_page)
    for name in files:
        path, kind = PurePosixPath(name), kind_of(name)
        if kind in LISTS:
            continue
        if kind != ".png":
            problems.append(f"{name} is no PNG, CSV or JSONL file: it was not read")
        elif path.name not in pictures:
            problems.append(f"{name} has the name of no template of round {number}: name it as its template")
        elif pictures[path.name]:
            problems.append(f"{name} is there twice, and {pictures[path.name]} was read: keep one")
        else:
            pictures[path.name] = name
    settled = _settled(said, problems, last_wins=last_wins)
    told = requests.append_column(
        "labels", pa.array([[settled.get(one) for one in mine] for mine in ids], pa.list_(pa.uint8()))
    ).append_column("picture", pa.array([pictures[name] for name in names], pa.string()))
    with arrow_batches(stream(told, block_rows, ReadTemplates(place, classes, radius, last_wins))) as batches:
        found = pa.concat_tables([_READ.empty_table(), *batches])
    problems += [problem for each in found["problems"].to_pylist() for problem in each]
    return requests.append_column("answers", found["answers"]), problems


def read_lists(
    place: Storage,
    files: Iterable[str],
    number: int,
    classes: ClassSet,
    said: Said,
    of_page: dict[str, str] | None = None,
) -> Iterator[str]:
    """Adds what the lists among the files hold to ``said``, which has the ids of all regions; gives what is wrong.

    Args:
        of_page: takes what each file of the page held.
    """
    numbers = class_numbers(classes)
    lists = [*read_all(place, [name for name in files if kind_of(name) in LISTS], gone=True)]
    if of_page is not None:
        of_page.update((name, data.decode(errors="replace")) for name, data in lists if name.startswith(f"{PAGE}/"))
    for where, entry in (each for name, data in lists for each in _entries(name, data)):
        if isinstance(entry, str):
            yield f"{where}: {entry}"
            continue
        region_id = entry["id"].strip().lower()
        label = _label(entry["label"], numbers, classes)
        if region_id not in said:
            other = round_of(region_id)
            of = f"is of round {other}" if other not in (None, number) else f"is none of round {number}"
            yield f"{where}: id {_quoted(entry['id'])} {of}: the list of requests has all that are asked"
        elif label is None:
            yield (
                f"{where}: label {_quoted(entry['label'])} of {region_id} is no class: the README has all, or "
                f"say {CANT_TELL[0]!r}"
            )
        else:
            said[region_id].append((where, label))


def kind_of(name: str) -> str | None:
    """What a file among the answers is by its suffix; None: nothing that is read."""
    path = PurePosixPath(name)
    return None if path.name.startswith(".") else path.suffix.lower()


def foreign(filled: npt.NDArray[np.integer[Any]], y: npt.NDArray[np.int64], x: npt.NDArray[np.int64]) -> str | None:
    """Why a filled template (H, W) cannot be that of the pixels y, x which are asked; None: it can."""
    besides = np.ones(filled.shape, np.bool_)
    besides[y, x] = False
    if (filled[besides] == UNANSWERED).any():
        return f"has {UNANSWERED} where nothing is asked, so it is of another round: fill this one's template"
    touched = int((filled[besides] != LEAVE).sum())
    if touched > STRAY * besides.sum():
        return f"has other numbers than {LEAVE} where nothing is asked: keep the palette as it is"
    if touched and (filled[y, x] == LEAVE).all():
        return "has numbers only where nothing is asked, so it is of another round: fill this one's template"
    return None


def _settled(said: Said, problems: list[str], *, last_wins: bool) -> dict[str, int]:
    """The class of each region that lists name, UNANSWERED where they disagree, which is a problem."""
    settled = {}
    for region_id, answers in said.items():
        if not answers:
            continue
        settled[region_id] = answers[-1][1]
        if len({label for _, label in answers}) > 1 and not last_wins:
            settled[region_id] = UNANSWERED
            problems.append(_disagreement(region_id, [where for where, _ in answers]))
    return settled


def _disagreement(region_id: str, where: list[str]) -> str:
    return f"{region_id} has answers that disagree ({', '.join(where)}): keep one, or set annotation.last_answer_wins"


def _entries(name: str, data: bytes) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Where each entry of a list stands, and what it says, id and label; or what is wrong with it."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        yield name, "it is no UTF-8 text: store it as that"
        return
    if name.lower().endswith(".jsonl"):
        for line, each in enumerate(text.split("\n"), start=1):
            if each.strip():
                yield f"{name} line {line}", _json_entry(each)
        return
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        yield name, f"it is no CSV ({one_line(error)}): is there a quotation mark too many?"
        return
    for line, row in enumerate(rows, start=1):
        if not row or (line == 1 and [cell.strip().lower() for cell in row] == ["id", "label"]):
            continue
        if line == len(rows) and not text.endswith(("\n", "\r")):
            yield f"{name} line {line}", _HALF  # a number may lack its last digit
        elif len(row) != 2:
            yield f"{name} line {line}", f"it has {len(row)} cells: give an id and a label"
        else:
            yield f"{name} line {line}", {"id": row[0], "label": row[1]}


def _json_entry(text: str) -> dict[str, Any] | str:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"it is no JSON ({one_line(error)}): is the file whole?"
    if not isinstance(found, dict) or not isinstance(found.get("id"), str) or "label" not in found:
        return 'it needs an "id", in quotes, and a "label"'
    if DIGEST in found and found.pop(DIGEST) != digest_of(found):
        return f"it was changed since the page wrote it, whose {DIGEST} it holds: leave that out if you mean it"
    return found


def _quoted(said: Any) -> str:
    """What stands in a list, cut where a stray quotation mark has swallowed the rest of it."""
    text = printable(str(said))
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]} …")


def _label(said: Any, numbers: npt.NDArray[np.int16], classes: ClassSet) -> int | None:
    """The class, or IGNORE, of a label by its name or number; None: it is none."""
    if isinstance(said, str):
        named, text = class_named(said, classes), said.strip().casefold()
        if named is not None:
            return named
        if text in CANT_TELL:
            return IGNORE
        said = int(text) if text.isascii() and text.isdecimal() and len(text) < 4 else None
    if type(said) is not int or not 0 <= said < len(numbers) or numbers[said] < 0:
        return None
    return int(numbers[said])


@dataclass(frozen=True)
class ReadTemplates:
    """Puts together what the templates of each image and the lists say."""

    folder: Storage
    classes: ClassSet
    region_radius: int
    last_wins: bool

    def __call__(self, batch: pa.Table) -> pa.Table:
        """_READ, for requests with ids, ``labels`` of their regions as the lists have them, and ``picture``.

        picture is the file among the answers that is the image's filled template; empty: there is none.
        """
        return pa.Table.from_pylist([self._read(request) for request in batch.to_pylist()], schema=_READ)

    def _read(self, request: dict[str, Any]) -> dict[str, Any]:
        asked, problems = question(request, self.region_radius), list[str]()
        y, x = (np.concatenate(places) for places in zip(*asked.pixels, strict=True))
        region = np.repeat(np.arange(len(asked.regions)), [len(ys) for ys, _ in asked.pixels])
        answers, disagree = np.full(len(y), UNANSWERED, np.uint8), np.zeros(len(asked.regions), np.bool_)
        said = [self._template(name, asked.size, y, x, problems) for name in self._pictures(request)]
        lists = np.array([UNANSWERED if each is None else each for each in request["labels"]], np.uint8)
        for each in (*said, lists[region]):
            both = (each != UNANSWERED) & (answers != UNANSWERED) & (each != answers)
            disagree[region[both]] = True
            answers = np.where(each != UNANSWERED, each, answers)
        among_lists = np.array([each == UNANSWERED for each in request["labels"]], np.bool_)
        if not self.last_wins:
            answers[(disagree | among_lists)[region]] = UNANSWERED
            where = [*self._pictures(request), "lists"]
            problems += [_disagreement(request["ids"][at], where) for at in np.flatnonzero(disagree & ~among_lists)]
        return {"answers": answers.tolist(), "problems": problems}

    def _pictures(self, request: dict[str, Any]) -> list[str]:
        own = f"{TEMPLATES}/{template_file(request['image_id'])}"
        return [own, request["picture"]] if request["picture"] else [own]

    def _template(
        self, name: str, size: tuple[int, int], y: npt.NDArray[np.int64], x: npt.NDArray[np.int64], problems: list[str]
    ) -> npt.NDArray[np.uint8]:
        """What a filled template says of the pixels asked; what is wrong with it is added to ``problems``."""
        nothing = np.full(len(y), UNANSWERED, np.uint8)
        try:
            filled = read_numbers(File(name, lambda: self.folder.read(name)))
        except BadRecordError as error:
            if self.folder.exists(name):  # else somebody moved it
                problems.append(str(error))
            return nothing
        if filled.shape != size:
            problems.append(
                f"{name} is {filled.shape[1]}x{filled.shape[0]} pixels, its image "
                f"{size[1]}x{size[0]}: fill the template itself"
            )
            return nothing
        if why := foreign(filled, y, x):
            problems.append(f"{name} {why}: nothing of it was read")
            return nothing
        written = filled[y, x]
        label = class_numbers(self.classes)[written]
        odd = (label < 0) & (written != UNANSWERED)
        if odd.any():
            first = int(np.flatnonzero(odd)[0])
            problems.append(
                f"{name} has {written[first]} at y {y[first]}, x {x[first]}, and {odd.sum() - 1} more numbers that are "
                "no class: the README has all"
            )
        return np.where(label < 0, UNANSWERED, label).astype(np.uint8)
