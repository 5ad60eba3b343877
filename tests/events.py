"""Reads TensorBoard event files without TensorBoard, checksums included."""

from __future__ import annotations

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event


def crc32c(data: bytes) -> int:
    """Castagnoli's, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def scalars(data: bytes) -> list[tuple[int, str, float]]:
    """Step, name and value in their order, of TFRecord frames: length, its checksum, payload, its checksum."""
    found, start = [], 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        payload = data[start + 12 : start + 12 + length]
        assert len(payload) == length
        assert struct.unpack_from("<I", data, start + 8)[0] == masked(data[start : start + 8])
        assert struct.unpack_from("<I", data, start + 12 + length)[0] == masked(payload)
        event = Event.FromString(payload)
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        start += 16 + length
    return found


def read_scalars(folder: Path) -> list[tuple[int, str, float]]:
    """The same of all files of a folder, the oldest first."""
    return [found for path in sorted(folder.iterdir()) for found in scalars(path.read_bytes())]
