"""Directory trees that mean no good: links, loops, pipes, sockets, long and odd names, files of others."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from PIL import Image

Plant = Callable[[Path, Path, random.Random], None]

LONGEST = 255
"""Bytes of a file's name on Linux."""

ODD = (
    "a b",
    "a?token=b",
    "a%2Fb",
    "~",
    "-rf",
    "$HOME",
    "*",
    "[a]",
    "{b}",
    "a#b",
    "é",
    "e\u0301",
    "...",
    "a\\b",
    "'",
    '"',
)

UNPRINTABLE = (b"a\nb", b"\xff\xfe", b"a\tb", b"\x1b[31m")

OURS = (
    "halo_ray.json", "config.yaml", "plan.json", "metrics.jsonl", "checkpoints.json", "sweep.json", "results.json",
    "results.csv", "model.json", "model.safetensors", "stages", "lock", "rounds", "trials", "shared", "report",
    "manifests", "annotations", "inspection", "tensorboard", "answers", "pretrain", "index.html",
)  # fmt: skip
"""Names that mean something in our directories."""


def surroundings(root: Path) -> Path:
    """A directory of somebody else, to which hostile links lead."""
    (root / "images").mkdir(parents=True)
    (root / "deep" / "rounds" / "001").mkdir(parents=True)
    for number in range(2):
        _picture(root / "images" / f"{number}.png")
    for name in ("halo_ray.json", "config.yaml", "notes.tmp", "thesis.txt", "deep/metrics.jsonl"):
        (root / name).write_text(f"precious {name}\n")
    (root / ".halo_ray-0123456789abcdef-0123456789ab.tmp").write_text("unfinished, of somebody else")
    return root


def _picture(path: Path, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.linear_gradient("L").resize((100, 72)).convert(mode)
    (picture if mode == "RGB" else picture.point(lambda value: 0)).save(path, "PNG")


def _frames(tree: Path, outside: Path, chance: random.Random) -> None:
    for name in range(3):
        _picture(tree / "images" / f"{name}.png")
        _picture(tree / "labels" / f"{name}.png", "L")


def _pictures_above(tree: Path, outside: Path, chance: random.Random) -> None:
    for name in "ab":
        _picture(tree / f"{name}.png")
    _picture(tree / "a.overlay.png")


def _loops(tree: Path, outside: Path, chance: random.Random) -> None:
    for directory in (tree, tree / "images"):
        directory.mkdir(exist_ok=True)
        (directory / "self").symlink_to(".")
        (directory / "up").symlink_to("..")
        (directory / "one").symlink_to("two")
        (directory / "two").symlink_to("one")


def _links_out(tree: Path, outside: Path, chance: random.Random) -> None:
    (tree / "everything").symlink_to(outside)
    (tree / "more.png").symlink_to(outside / "images" / "0.png")
    (tree / "gone.png").symlink_to(outside / "nowhere")
    if not (tree / "images").exists():
        (tree / "images").symlink_to(outside / "images")


def _our_names_lead_out(tree: Path, outside: Path, chance: random.Random) -> None:
    targets = (outside, outside / "deep", outside / "thesis.txt", outside / "halo_ray.json", outside / "new")
    for name in chance.sample(OURS, 6):
        if not os.path.lexists(tree / name):
            (tree / name).symlink_to(chance.choice(targets))
    (tree / ".halo_ray-00112233445566aa-001122334455.tmp").symlink_to(outside / "thesis.txt")


def _hard_links(tree: Path, outside: Path, chance: random.Random) -> None:
    for name in chance.sample(OURS, 4):
        if not os.path.lexists(tree / name):
            os.link(outside / "thesis.txt", tree / name)


def _pipes_and_sockets(tree: Path, outside: Path, chance: random.Random) -> None:
    for name in ("pipe.png", "pipe.tmp", chance.choice(OURS)):
        if not os.path.lexists(tree / name):
            os.mkfifo(tree / name)
    here = os.getcwd()
    os.chdir(tree)  # the path of a socket has at most 108 bytes
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("socket.png")
    os.chdir(here)


def _long_names(tree: Path, outside: Path, chance: random.Random) -> None:
    _picture(tree / ("x" * (LONGEST - 4) + ".png"))
    (tree / ("y" * LONGEST)).mkdir()
    deep = tree
    for _ in range(12):
        deep /= "z" * 60
    deep.mkdir(parents=True)


def _odd_names(tree: Path, outside: Path, chance: random.Random) -> None:
    for name in chance.sample(ODD, 5):
        _picture(tree / f"{name}.png")
        (tree / f"{name}.tmp").write_text("mine")
        (tree / f"{name}.d").mkdir()


def _unprintable_names(tree: Path, outside: Path, chance: random.Random) -> None:
    name = os.fsencode(tree) + b"/" + chance.choice(UNPRINTABLE)
    with open(name + b".png", "wb") as file:
        file.write(b"no image")


def _files_of_others(tree: Path, outside: Path, chance: random.Random) -> None:
    for name in ("notes.tmp", "thesis.txt", "images/old.tmp", ".halo_ray-ffeeddccbbaa9988-000000000001.tmp"):
        (tree / name).parent.mkdir(exist_ok=True)
        if (tree / name).resolve().is_relative_to(tree):
            (tree / name).write_text("mine")
    for name in chance.sample(OURS, 5):
        if not os.path.lexists(tree / name):
            (tree / name).write_text(chance.choice(("{}", "[]", "null", "mine", "", '{"format": 1}', "\0\xff")))


def _hidden_files(tree: Path, outside: Path, chance: random.Random) -> None:
    (tree / ".git").mkdir()
    (tree / ".git" / "config").write_text("mine")
    (tree / ".hidden").symlink_to(outside)
    (tree / "lost+found").mkdir()
    (tree / ".notes.tmp").write_text("mine")


PLANTS: tuple[Plant, ...] = (
    _frames, _pictures_above, _loops, _links_out, _our_names_lead_out, _hard_links, _pipes_and_sockets, _long_names,
    _odd_names, _unprintable_names, _files_of_others, _hidden_files,
)  # fmt: skip


def hostile_tree(tree: Path, outside: Path, number: int) -> list[str]:
    """Makes the tree of a number, and names what was planted: in the first ones one thing each, then two to four."""
    chance = random.Random(number)
    plants = [PLANTS[number]] if number < len(PLANTS) else chance.sample(PLANTS, chance.randint(2, 4))
    tree.mkdir(parents=True)
    for plant in sorted(plants, key=PLANTS.index):
        plant(tree, outside, chance)
    return [plant.__name__.strip("_") for plant in plants]


Seen = dict[bytes, tuple[object, ...]]


def seen(root: Path) -> Seen:
    """Everything below a directory as it is: no link is followed, nothing but files is opened."""
    found: Seen = {}
    for directory, directories, files in os.walk(os.fsencode(root)):
        for name in (*directories, *files):
            path = os.path.join(directory, name)
            is_now = os.lstat(path)
            kind, told = stat.S_IFMT(is_now.st_mode), ()
            if stat.S_ISLNK(is_now.st_mode):
                told = (os.readlink(path),)
            elif stat.S_ISREG(is_now.st_mode):
                with open(path, "rb") as file:
                    told = (hashlib.sha256(file.read()).hexdigest(), is_now.st_mtime_ns, is_now.st_mode)
            found[path] = (kind, *told)
    return found
