"""What people say of a round outside its page, in lists and templates, seen while the page is open."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any

import pyarrow.fs as pafs

from halo_ray.acquisition.regions import window
from halo_ray.annotations.desk_files import Asked
from halo_ray.annotations.folder import ANSWERS, PAGE, TEMPLATES, template_file
from halo_ray.annotations.oracles import UNANSWERED
from halo_ray.annotations.received import LISTS, kind_of, read_lists
from halo_ray.data.classes import ClassSet
from halo_ray.data.images import File, read_numbers
from halo_ray.errors import BadRecordError
from halo_ray.patience import patiently
from halo_ray.storage import Storage

Stamp = tuple[int, ...]
"""Changes whenever a file does: its size, its time, and its inode where there is one."""


class Elsewhere:
    """Regions of which a list says something valid, or which a template no longer asks for as it did.

    The page does not ask for them: an answer that disagrees would make both count for nothing.
    """

    def __init__(self, place: Storage, number: int, classes: ClassSet, regions: Mapping[str, Asked]) -> None:
        self._place, self._number, self._classes, self._regions = place, number, classes, regions
        self._of_image: dict[str, list[Asked]] = {}
        for each in regions.values():
            self._of_image.setdefault(each.image, []).append(each)
        self._lists: dict[str, tuple[Stamp, set[str]]] = {}
        """By list, the regions that it names."""
        self._pictures: dict[str, tuple[Stamp, set[str]]] = {}
        """By template, or copy of one, the regions that it says something of."""
        self._copies: dict[str, tuple[str, Stamp]] = {}
        """By file name of a template, its copy among the answers."""
        self.look()

    @property
    def told(self) -> set[str]:
        """The regions, as far as was looked."""
        found = (*self._lists.values(), *self._pictures.values())
        return {region_id for _, mine in found for region_id in mine}

    def look(self) -> bool:
        """Reads the lists that are new or were changed; whether anything was, or is gone."""
        gone = [name for name, known in self._pictures.items() if [(name, known[0])] != [*_stamp(self._place, name)]]
        for name in gone:
            del self._pictures[name]
        stamps = dict(sorted(_stamps(self._place)))
        before = {name: stamp for name, (stamp, _) in self._lists.items()}
        now = {name: stamp for name, stamp in stamps.items() if kind_of(name) in LISTS}
        self._copies = {}
        for name, stamp in stamps.items():
            if kind_of(name) == ".png":
                self._copies.setdefault(PurePosixPath(name).name, (name, stamp))
        changed = [name for name, stamp in now.items() if before.get(name) != stamp]
        self._lists = {name: self._lists[name] for name in now if name in before and name not in changed}
        for name in changed:
            said = {region_id: list[tuple[str, int]]() for region_id in self._regions}
            for _ in read_lists(self._place, [name], self._number, self._classes, said):
                pass  # what is wrong with it is said by the run that reads the round
            self._lists[name] = now[name], {region_id for region_id, answers in said.items() if answers}
        return before != now or bool(gone)

    def says(self, region: Asked) -> str | None:
        """The file that says something of a region: a list, as of the last look, or a template, as it is now."""
        for name, (_, mine) in self._lists.items():
            if region.id in mine:
                return name
        file = template_file(region.image)
        copy = [self._copies[file]] if file in self._copies else []
        for name, stamp in [*_stamp(self._place, f"{TEMPLATES}/{file}"), *copy]:
            known = self._pictures.get(name)
            if known is None or known[0] != stamp:
                known = self._pictures[name] = stamp, self._filled(name, region.image)
            if region.id in known[1]:
                return name
        return None

    def _filled(self, name: str, image: str) -> set[str]:
        """The regions of an image whose pixels a template does not all ask for any more; all if it cannot be read."""
        try:
            pixels = read_numbers(File(name, lambda: self._place.read(name)))
        except BadRecordError:
            return {each.id for each in self._of_image[image]}
        return {
            each.id
            for each in self._of_image[image]
            if int((pixels[window(each.y, each.x, each.r)] == UNANSWERED).sum()) != each.pixels
        }


def _stamps(place: Storage) -> Iterator[tuple[str, Stamp]]:
    """The files among the answers, but for those of the page, which may be very many."""
    if place.local:
        top = place.path(ANSWERS)
        for at, directories, names in os.walk(top):
            if at == top:
                directories[:] = [name for name in directories if f"{ANSWERS}/{name}" != PAGE]
            for name in names:
                yield from _stamp(place, f"{at[len(place.root) + 1 :]}/{name}")
        return
    for found in _infos(place, pafs.FileSelector(place.path(ANSWERS), allow_not_found=True)):
        name = str(found.path)[len(place.root) + 1 :]
        if found.type == pafs.FileType.Directory and name != PAGE:
            below = _infos(place, pafs.FileSelector(found.path, recursive=True, allow_not_found=True))
            yield from ((str(each.path)[len(place.root) + 1 :], _of(each)) for each in below if each.is_file)
        elif found.is_file:
            yield name, _of(found)


def _stamp(place: Storage, name: str) -> Iterator[tuple[str, Stamp]]:
    """The stamp of a file; none where it is not there."""
    path = place.path(name)
    if place.local:
        with suppress(OSError):
            found = os.stat(path)
            if stat.S_ISREG(found.st_mode):
                yield name, (found.st_size, found.st_mtime_ns, found.st_ino)
    elif (info := _infos(place, [path])[0]).is_file:
        yield name, _of(info)


def _infos(place: Storage, what: Any) -> list[pafs.FileInfo]:
    found: list[pafs.FileInfo] = patiently(
        lambda: place.filesystem.get_file_info(what), f"{place.uri}/{ANSWERS}", place.patience
    )
    return found


def _of(info: pafs.FileInfo) -> Stamp:
    return info.size, info.mtime_ns or 0
