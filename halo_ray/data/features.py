"""Stored features of a frozen backbone: a file for each image and one for its mirror image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from halo_ray.data.images import File
from halo_ray.data.listing import Root
from halo_ray.errors import InputError, one_line
from halo_ray.filesystems import resolve
from halo_ray.storage import safe_name

Size = tuple[int, int]

SEAL_BYTES = hashlib.sha256().digest_size
"""At the end of every file."""


class MapShape(NamedTuple):
    """Of one feature map of one image."""

    channels: int
    height: int
    width: int
    channels_last: bool
    """Whether channels lie next to each other in memory: the layout decides about the last bits of what follows."""

    @classmethod
    def of(cls, maps: Tensor) -> MapShape:
        """Of maps (1, C, h, w)."""
        last = maps.is_contiguous(memory_format=torch.channels_last) and not maps.is_contiguous()
        channels, height, width = maps.shape[1:]
        return cls(channels, height, width, last)


@dataclass(frozen=True)
class Features:
    """Where the features lie, and what shapes they have."""

    experiment: str = field(repr=False)  # which Ray may write to its logs
    """Directory or URI of the experiment that keeps them."""
    shapes: Mapping[Size, Sequence[MapShape]]
    """Of the maps by (height, width) of the network's input, finest first."""
    key: str
    """Names what computed them; each file ends with a digest of this, its own name and its content."""

    def uris(self, split: str, image_ids: Sequence[str], mirrored: Sequence[bool]) -> list[str]:
        """The file of each image, or of its mirror image."""
        root = _root(self.experiment)
        return [
            root.path_uri(feature_file(split, image_id, flip))
            for image_id, flip in zip(image_ids, mirrored, strict=True)
        ]

    def read(self, file: File, size: Size) -> bytes:
        """The content of a file.

        Raises:
            InputError: it cannot be read, or is not of the length that the maps have.
        """
        try:
            data = file.read()
        except OSError as error:
            raise _broken(file, f"cannot be read ({one_line(error)})") from error
        count = sum(shape.channels * shape.height * shape.width for shape in self.shapes[size])
        if len(data) != 4 * count + SEAL_BYTES:
            raise _broken(file, f"has {len(data)} bytes instead of {4 * count + SEAL_BYTES}")
        if not is_sealed(data, "/".join(resolve(file.uri)[1].split("/")[-2:]), self.key):
            raise _broken(file, "is damaged, or of another image")
        return data[:-SEAL_BYTES]

    def maps(self, rows: Sequence[bytes], size: Size) -> list[Tensor]:
        """Feature maps (N, C, h, w), float32, of the contents of N files."""
        joined = np.stack([np.frombuffer(row, np.float32) for row in rows])
        maps, start = [], 0
        for channels, height, width, last in self.shapes[size]:
            part = torch.from_numpy(joined[:, start : start + channels * height * width]).contiguous()
            start += part.shape[1]
            if last:
                maps.append(part.reshape(-1, height, width, channels).permute(0, 3, 1, 2))
            else:
                maps.append(part.reshape(-1, channels, height, width))
        return maps


@cache
def _root(experiment: str) -> Root:
    """Looked up once in a process: it asks the store."""
    return Root(experiment)


def _broken(file: File, what: str) -> InputError:
    return InputError(
        f"features {file.uri} {what}: delete stages/features.json of the experiment, so that all are computed anew"
    )


def feature_file(split: str, image_id: str, mirrored: bool) -> str:
    """Name of a file below the experiment's directory."""
    return f"features/{split}/{safe_name(image_id)}.{'mirrored' if mirrored else 'upright'}"


def network_input(
    images: Sequence[bytes], size: Size, features: Features | None, device: torch.device | str
) -> Tensor | list[Tensor]:
    """What a segmenter takes: images (N, H, W, 3), or the features that come instead of them.

    Args:
        images: the bytes of N images of ``size``, or the contents of N files of ``features``.
    """
    if features is not None:
        return [maps.to(device) for maps in features.maps(images, size)]
    joined = np.stack([np.frombuffer(image, np.uint8).reshape(*size, 3) for image in images])
    return torch.from_numpy(joined).to(device)


def pack(maps: Sequence[Tensor], name: str, key: str) -> bytes:
    """The content of a file: the maps (1, C, h, w) one after another, float32, as they lie in memory, and their digest.

    Args:
        name: of the file, as feature_file gives it.
        key: of Features.
    """
    flat = [m.permute(0, 2, 3, 1) if MapShape.of(m).channels_last else m for m in maps]
    data = b"".join(m.float().cpu().contiguous().numpy().tobytes() for m in flat)
    return data + _seal(data, name.removeprefix("features/"), key)


def is_sealed(data: bytes, name: str, key: str) -> bool:
    """Whether the content of a file is what pack gave.

    Args:
        name: of the file: its split, a slash, and the name in that.
    """
    return data[-SEAL_BYTES:] == _seal(data[:-SEAL_BYTES], name, key)


def _seal(data: bytes, name: str, key: str) -> bytes:
    digest = hashlib.sha256(f"{key}\n{name}\n".encode())
    digest.update(data)
    return digest.digest()
