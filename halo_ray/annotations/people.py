"""The oracle that is people: a round asks them once, and every run after that reads what they have answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from halo_ray.annotations.export import export, exported
from halo_ray.annotations.folder import README, RECEIVED, folder, folder_name, with_ids
from halo_ray.annotations.oracles import UNANSWERED, question
from halo_ray.annotations.reading import reading
from halo_ray.annotations.received import read_answers
from halo_ray.context import Context
from halo_ray.data.classes import IGNORE
from halo_ray.errors import AnswersNeededError
from halo_ray.secret import redacted

SHOWN = 5
"""Problems that are printed; the file of what was received has all."""


@contextmanager
def answers_of_people(context: Context, number: int, requests: pa.Table, model: str) -> Iterator[pa.Table]:
    """The requests with what people have answered, in a column ``answers`` (see oracles.question).

    The body commits them, or raises: until it ends no page takes an answer that it could not know to be among them.
    What is wrong with the answers is printed, and stored in the folder of the round with the regions that have none.

    Raises:
        AnswersNeededError: they had not been asked before.
    """
    config, storage, where = context.config, context.storage, f"{context.storage.uri}/{folder_name(number)}"
    radius, blocks = config.acquisition.region_radius, config.execution.block_images
    requests = with_ids(requests, number, model)
    if not exported(storage, number):
        export(requests, storage, number, context.classes, radius, blocks)
        asked = sum(map(len, requests["ids"].to_pylist()))
        raise AnswersNeededError(
            f"round {number} asks for {asked} regions of {requests.num_rows} images: label them as {where}/{README} "
            "says, then run the same command again"
        )
    place, last_wins, of_page = folder(storage, number), config.annotation.last_answer_wins, dict[str, str]()
    with reading(storage, number):
        answered, problems = read_answers(
            requests, place, number, context.classes, radius, blocks, last_wins=last_wins, of_page=of_page
        )
        place.write_json(RECEIVED, {**_received(answered, radius, problems), "page": of_page})
        for problem in problems[:SHOWN]:
            print(f"round {number}: {problem}", flush=True)
        if len(problems) > SHOWN:
            print(f"round {number}: {redacted(where)}/{RECEIVED} has {len(problems) - SHOWN} more", flush=True)
        yield answered


def _received(answered: pa.Table, radius: int, problems: list[str]) -> dict[str, Any]:
    """How many regions are answered, which are not, and what was wrong."""
    asked, cant_tell, partly, missing = 0, 0, [], []
    for request in answered.to_pylist():
        start = 0
        for region_id, (y, _) in zip(request["ids"], question(request, radius).pixels, strict=True):
            said = set(request["answers"][start : start + len(y)])
            start += len(y)
            asked += 1
            cant_tell += said == {IGNORE}
            if said == {UNANSWERED}:
                missing.append(region_id)
            elif UNANSWERED in said:
                partly.append(region_id)
    return {
        "asked": asked,
        "answered": asked - len(missing),
        "cant_tell": cant_tell,
        "answered_in_part": partly,
        "not_answered": missing,
        "problems": problems,
    }
