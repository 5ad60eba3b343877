"""Readers: list the images and labels of a split, without opening any of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from halo_ray.data.images import SYNTHETIC
from halo_ray.data.synthetic import MIN_SIDE, STYLES
from halo_ray.errors import InputError
from halo_ray.storage import resolve
from halo_ray.suggest import nearest

MANIFEST = pa.schema(
    [
        ("image_id", pa.string()),
        ("image_uri", pa.string()),
        ("label_uri", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)
"""Columns of a manifest. label_uri is null where there is no label; sizes in pixels, null until the header was read."""


@dataclass(frozen=True)
class SplitConfig:
    """Where the images of one split come from."""

    reader: str = "synthetic"
    """Folder layout: synthetic, camvid or folder."""
    split: str = ""
    """Name of the split in that layout (camvid: a list under splits/, as day; synthetic: source or target)."""
    root: str | None = None
    """Directory or URI of this split; null: data_root."""
    images: str = "images/*"
    """Reader folder: pattern of the images below the root; one * stands for the image id."""
    labels: str | None = None
    """Reader folder: pattern of the labels, with * where the image id stands; null: no labels."""
    list_file: str | None = None
    """Reader folder: file below the root with one image id per line; null: all that match."""
    count: int = 0
    """Reader synthetic: number of scenes; other readers: use the first so many images, 0 for all."""
    first: int = 0
    """Reader synthetic: index of the first scene."""
    height: int = 128
    """Reader synthetic: height of a scene in pixels."""
    width: int = 256
    """Reader synthetic: width of a scene in pixels."""

    def __post_init__(self) -> None:
        for key in ("count", "first"):
            if getattr(self, key) < 0:
                raise InputError(f"data.*.{key} is {getattr(self, key)}: it must be 0 or more")


def list_split(config: SplitConfig, data_root: str, *, key: str, seed: int = 0) -> pa.Table:
    """The manifest of one split, sorted by image id.

    Args:
        key: the config key of the split, named in errors.
        seed: of the synthetic scenes.

    Raises:
        InputError: unknown reader, missing directory or files, or no image at all.
    """
    root = config.root or data_root
    if config.reader == "synthetic":
        rows = _synthetic(config, seed, key)
    elif config.reader == "camvid":
        rows = _folder(root, "images/*.jpg", "labels/*.png", f"splits/{config.split}.txt", key)
    elif config.reader == "folder":
        rows = _folder(root, config.images, config.labels, config.list_file, key)
    else:
        hint = nearest(config.reader, ("synthetic", "camvid", "folder"))
        raise InputError(f"{key}.reader: no reader {config.reader!r}; {hint}")
    rows = sorted(rows, key=lambda row: str(row["image_id"]))
    if config.count:
        rows = rows[: config.count]
    if not rows:
        raise InputError(f"{key}: no images under {root!r}: check data_root and {key}")
    return pa.Table.from_pylist(rows, schema=MANIFEST)


def _synthetic(config: SplitConfig, seed: int, key: str) -> list[dict[str, object]]:
    if config.split not in STYLES:
        raise InputError(f"{key}.split: no synthetic style {config.split!r}; {nearest(config.split, STYLES)}")
    for side in ("height", "width"):
        if getattr(config, side) < MIN_SIDE:
            raise InputError(f"{key}.{side} is {getattr(config, side)}: a scene needs at least {MIN_SIDE} pixels")
    rows: list[dict[str, object]] = []
    for index in range(config.first, config.first + config.count):
        uri = f"{SYNTHETIC}://{config.split}/{seed}/{index}?height={config.height}&width={config.width}"
        name = f"{config.split}-{index:06d}"
        rows.append(
            {"image_id": name, "image_uri": uri, "label_uri": uri, "height": config.height, "width": config.width}
        )
    return rows


def _folder(root: str, images: str, labels: str | None, list_file: str | None, key: str) -> list[dict[str, object]]:
    """Images whose path below ``root`` matches ``images``; what * stands for is the image id."""
    if not root:
        raise InputError(f"{key} needs a directory: set --data_root or --{key}.root")
    for pattern_key, pattern in (("images", images), ("labels", labels)):
        if pattern is not None and pattern.count("*") != 1:
            raise InputError(
                f"{key}.{pattern_key}: pattern {pattern!r} needs exactly one *, which stands for the image id"
            )
    filesystem, base = resolve(root)
    if filesystem.get_file_info(base).type != pafs.FileType.Directory:
        raise InputError(f"{key}: no directory {root}: check data_root")
    found = _matches(filesystem, base, images)
    if list_file is not None:
        wanted = _read_list(filesystem, f"{base}/{list_file}", key)
        missing = [name for name in wanted if name not in found]
        if missing:
            expected = images.replace("*", missing[0])
            raise InputError(
                f"{root}/{list_file} names {missing[0]!r}, but {root}/{expected} does not exist: mend the list"
            )
        found = {name: found[name] for name in wanted}
    label_of = _matches(filesystem, base, labels) if labels is not None else {}
    unlabelled = [name for name in found if labels is not None and name not in label_of]
    if unlabelled:
        expected = str(labels).replace("*", unlabelled[0])
        raise InputError(f"image {unlabelled[0]!r} has no label {root}/{expected}: add it, or set {key}.labels to null")
    return [
        {
            "image_id": name,
            "image_uri": _uri(path, root),
            "label_uri": None if labels is None else _uri(label_of[name], root),
            "height": None,
            "width": None,
        }
        for name, path in found.items()
    ]


def _matches(filesystem: pafs.FileSystem, base: str, pattern: str) -> dict[str, str]:
    """Path of each file under ``base`` that matches, by what the * stands for (which may hold slashes)."""
    before, after = pattern.split("*")
    folder = f"{base}/{before}".rpartition("/")[0]
    selector = pafs.FileSelector(folder, recursive=True, allow_not_found=True)
    prefix = f"{base}/{before}"
    found: dict[str, str] = {}
    for info in filesystem.get_file_info(selector):
        if info.is_file and info.path.startswith(prefix) and info.path.endswith(after):
            name = info.path[len(prefix) : len(info.path) - len(after)]
            name = name if after else str(PurePosixPath(name).with_suffix(""))
            if name in found:
                raise InputError(f"{found[name]} and {info.path} have the same image id {name!r}: rename one")
            found[name] = info.path
    return found


def _uri(path: str, root: str) -> str:
    """How resolve() finds ``path`` again, a path in the filesystem of ``root``; local files by their plain path."""
    parts = urlsplit(root)
    if "://" not in root or parts.scheme == "file":
        return path
    return f"{parts.scheme}://{quote(path)}" + (f"?{parts.query}" if parts.query else "")


def _read_list(filesystem: pafs.FileSystem, path: str, key: str) -> list[str]:
    try:
        with filesystem.open_input_stream(path) as stream:
            lines = bytes(stream.read()).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{key}: list {path} cannot be read: check the split's name and data_root") from error
    names = [line.strip() for line in lines if line.strip()]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise InputError(f"{key}: list {path} names {repeated[0]!r} twice: mend the list")
    return names
