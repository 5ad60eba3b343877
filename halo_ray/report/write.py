"""Write a report: one page that needs nothing else, its pictures as files beside it, and the digests of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import matplotlib

from halo_ray.context import Context
from halo_ray.errors import InputError
from halo_ray.figures import as_png
from halo_ray.report.chapters import Chapter, Table, chapters, summary
from halo_ray.report.compare import caption, curve, groups, lines_of
from halo_ray.report.frames import Picture
from halo_ray.report.layout import FILES, PAGE, REPORT
from halo_ray.report.page import Section, render
from halo_ray.report.reported import Reported, read_experiment
from halo_ray.results import has_metrics, read_metrics
from halo_ray.root import foreign_entries
from halo_ray.stages import Stages
from halo_ray.storage import Storage, sha256

MANY = 4
"""From more experiments than these, one of each group is shown with frames: a page of hundreds could not be opened."""


def report_experiment(context: Context) -> str:
    """Writes the report of the experiment that runs; returns the name of its page.

    Raises:
        InputError: a file of the experiment is damaged or gone.
    """
    # The images may lie elsewhere than when it was begun.
    told = replace(read_experiment(context.storage, None), pool=context.splits.pool)
    return f"{REPORT}/{write_report([told], context.storage.below(REPORT), own_functions=True)}"


def report(named: Sequence[str], out: str | None, *, own_functions: bool, data_root: str | None = None) -> str:
    """Writes the report of experiments, and of the trials of sweeps; returns the URI of its page.

    Args:
        named: directories or URIs.
        out: directory or URI; None: the report directory of the only one that is named.
        own_functions: as write_report.
        data_root: where the images lie now; None: where they lay when the experiments were begun.

    Raises:
        InputError: one is neither, or has nothing to report, or there are several and ``out`` is None; or ``out`` holds
            something else than an earlier report.
    """
    if out is None and len(named) > 1:
        raise InputError("several experiments are named, and no directory for their report: give --out")
    # Who is named twice, or in a sweep too, is one experiment.
    found = {each.uri.rstrip("/"): each for name in named for each in _experiments(Storage(name))}
    experiments = [read_experiment(each, data_root) for each in found.values()]
    target = Storage(named[0]).below(REPORT) if out is None else Storage(out)
    if out is not None:
        _check_empty(target)
    target.check_writable("--out")
    return target.below(write_report(experiments, target, own_functions=own_functions)).uri


def _experiments(storage: Storage) -> list[Storage]:
    """The experiment, or of a sweep the trials that have a record."""
    if storage.exists("stages") or not storage.exists("trials"):
        return [storage]
    found = [storage.below(f"trials/{name}") for name in storage.directories("trials")]
    recorded = [each for each in found if has_metrics(each)]
    if not recorded:
        raise InputError(f"{storage.uri} is a sweep of which no trial has a record yet: wait for the first")
    return recorded


def write_report(experiments: Sequence[Reported], out: Storage, *, own_functions: bool) -> str:
    """Writes the report of experiments to the directory ``out``; returns the name of its page.

    Pictures of an earlier report there that this one lacks are deleted.

    Args:
        own_functions: whether an acquisition function that is named by a dotted path may be imported.

    Raises:
        InputError: ``out`` is an experiment's own report, and that experiment has more records by now.
    """
    pictures: dict[str, bytes] = {}

    def drawn(chapter: Chapter, prefix: str = "") -> Chapter:
        """The chapter, whose pictures are drawn one after another: a figure is larger than its file."""
        pictures.update({prefix + picture.name: as_png(picture.figure) for picture in chapter.pictures})
        return chapter

    # In image ids and class names a dollar is a dollar; and text is to be read on a phone.
    with matplotlib.rc_context({"text.parse_math": False, "font.size": 11.5}):
        compared = groups(experiments)
        quality = Picture("quality", curve(compared), caption(compared))
        several = len(experiments) > 1
        above = drawn(Chapter("", [], [quality], [Table(lines_of(compared))] if several else []))
        first = {id(group.members[0]) for group in compared}
        sections = [
            Section(
                told.uri,
                summary(told),
                [
                    drawn(chapter, f"{number}-" if several else "")
                    for chapter in chapters(
                        told, frames=len(experiments) <= MANY or id(told) in first, own_functions=own_functions
                    )
                ],
                told.config_text,
                told.rows[-1].get("versions", {}),
            )
            for number, told in enumerate(experiments, start=1)
        ]
    title = f"{len(experiments)} experiments" if several else experiments[0].uri
    files = {f"{name}.png": png for name, png in pictures.items()}
    files[PAGE] = render(title, above, sections, pictures)
    for told in experiments:
        # The run that made the record writes its own report, which must not give way to an older one.
        if out.uri == told.storage.below(REPORT).uri and len(read_metrics(told.storage)) > len(told.rows):
            raise InputError(
                f"{told.storage.uri} got a record while {out.uri} was being made: run the same command again"
            )
    for name in _earlier(out) - files.keys():
        if name.endswith(".png") and "/" not in name:
            out.delete(name)
    digests = {name: sha256(data) for name, data in sorted(files.items())}
    named = [Stages(each.storage).experiment for each in experiments]
    # First: a report that was killed is known by it to be ours.
    out.write_sealed(FILES, {"experiments": named, "files": digests})
    for name, data in files.items():
        out.write(name, data)
    return PAGE


def _earlier(out: Storage) -> set[str]:
    """The files of an earlier report in the same directory; none where its list is damaged."""
    try:
        return {FILES, *out.read_sealed(FILES).get("files", {})} if out.exists(FILES) else set()
    except InputError:
        return set()


def _check_empty(out: Storage) -> None:
    """Raises InputError where a directory holds what is neither an earlier report nor hidden."""
    for name in foreign_entries(out, _earlier(out)):
        raise InputError(
            f"--out {out.uri} is neither empty nor an earlier report (it holds {name!r}): name another directory"
        )
