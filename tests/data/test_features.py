"""Stored features: the way through their files to the last bit, and which file a sample reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor

from halo_ray.data import samples
from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.data.decoding import DecodeImages
from halo_ray.data.features import Features, MapShape, feature_file, network_input, pack
from halo_ray.data.images import File
from halo_ray.data.listing import MANIFEST
from halo_ray.data.samples import LoadSamples, batch_to_tensors
from halo_ray.data.schedule import SCHEDULE, SOURCE, TARGET
from halo_ray.data.transforms import AugmentationConfig
from halo_ray.errors import InputError
from halo_ray.storage import Storage

SIZE = (12, 16)
SHAPES = [(3, 6, 8), (5, 3, 4), (1, 2, 3), (7, 1, 1)]
"""(channels, height, width); the last two lie in memory alike in both layouts."""
ODD_IDS = [
    "a", "a/b", "a%2Fb", "a b", "ä", "A", "a.mirrored", "a.upright", "..", "a" * 300, "a" * 299 + "b", "a?b#c",
]  # fmt: skip


def maps(seed: int, layout: str = "mixed") -> list[Tensor]:
    """Of one image; rows of channels, channels last, or one after the other."""
    generator = torch.Generator().manual_seed(seed)
    found = [torch.randn(1, *shape, generator=generator) for shape in SHAPES]
    last = {"first": [False] * 4, "last": [True] * 4, "mixed": [True, False, True, False]}[layout]
    return [
        each.contiguous(memory_format=torch.channels_last) if channels_last else each
        for each, channels_last in zip(found, last, strict=True)
    ]


def features(experiment: Path | str = "", layout: str = "mixed") -> Features:
    return Features(str(experiment), {SIZE: [MapShape.of(each) for each in maps(0, layout)]}, "key")


def packed(stored: list[Tensor], name: str = "features/pool/a.upright") -> bytes:
    """What a file of that name holds."""
    return pack(stored, name, "key")


def content(stored: list[Tensor]) -> bytes:
    """The same without its digest, as it is read."""
    return packed(stored)[:-32]


@pytest.mark.parametrize("layout", ["first", "last", "mixed"])
@pytest.mark.parametrize("images", [1, 3])
def test_maps_come_back_to_the_last_bit_and_in_their_layout(images: int, layout: str) -> None:
    stored = [maps(seed, layout) for seed in range(images)]
    stored[0][0][0, 0, 0, :4] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-42])
    found = features(layout=layout).maps([content(each) for each in stored], SIZE)
    for place, one in enumerate(found):
        expected = torch.cat([each[place] for each in stored])
        assert one.dtype == torch.float32
        assert torch.equal(one.view(torch.int32), expected.view(torch.int32))
        for how in (torch.contiguous_format, torch.channels_last):
            assert one.is_contiguous(memory_format=how) == expected.is_contiguous(memory_format=how)


def test_a_file_holds_the_maps_one_after_another_as_they_lie_in_memory() -> None:
    one = maps(1, "mixed")
    expected = [one[0].permute(0, 2, 3, 1), *one[1:]]
    held = b"".join(each.contiguous().numpy().tobytes() for each in expected)
    digest = hashlib.sha256(b"key\npool/a.upright\n" + held).digest()
    assert pack(one, "features/pool/a.upright", "key") == held + digest
    assert [MapShape.of(each) for each in one] == [(*SHAPES[0], True), (*SHAPES[1], False), (*SHAPES[2], False),
                                                   (*SHAPES[3], False)]  # fmt: skip


def test_other_dtypes_are_stored_as_float32() -> None:
    halves = [each.bfloat16() for each in maps(2)]
    assert packed(halves) == packed([each.float() for each in halves])
    assert packed([each.double() for each in maps(2)]) == packed(maps(2))


@pytest.mark.parametrize("change", [-4, -1, 4])
def test_a_file_of_another_length_says_what_to_delete(change: int) -> None:
    data = packed(maps(0), "features/x/a.upright")
    wrong = data[:change] if change < 0 else data + bytes(change)
    assert features().read(File("x/a.upright", lambda: data), SIZE) == data[:-32]
    pattern = rf"features b\.upright has {len(wrong)} bytes instead of {len(data)}: delete stages/features\.json"
    with pytest.raises(InputError, match=pattern):
        features().read(File("b.upright", lambda: wrong), SIZE)


@pytest.mark.parametrize("what", ["bit", "half", "image", "side", "experiment"])
def test_a_file_of_other_content_image_or_experiment_is_refused(what: str) -> None:
    data, name, key = packed(maps(0), "features/x/a.upright"), "x/a.upright", "key"
    if what == "bit":
        data = data[:40] + bytes([data[40] ^ 1]) + data[41:]
    elif what == "half":
        data = bytes(len(data) // 2) + data[len(data) // 2 :]
    else:
        name = {"image": "x/b.upright", "side": "x/a.mirrored"}.get(what, name)
        key = "other" if what == "experiment" else key
    found = Features("", features().shapes, key)
    with pytest.raises(InputError, match=r"delete stages/features\.json"):
        found.read(File(name, lambda: data), SIZE)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "features").mkdir()
    decode = DecodeImages(SIZE, keep_bad=True, features=features(tmp_path))
    batch = pa.table({"image_id": ["gone"], "image_uri": ["gone.jpg"]})
    with pytest.raises(InputError, match=r"features .*features/pool/gone\.upright cannot be read .* delete stages"):
        decode(batch)


def test_every_image_has_a_file_of_its_own(tmp_path: Path) -> None:
    names = {
        feature_file(split, image, mirrored)
        for split in ("source", "pool")
        for image in ODD_IDS
        for mirrored in (False, True)
    }
    assert len(names) == 4 * len(ODD_IDS)
    for name in names:
        assert name.count("/") == 2
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    assert {file.read_text() for file in tmp_path.rglob("*") if file.is_file()} == names


def fill(experiment: Path, ids: list[str], split: str) -> dict[tuple[str, bool], list[Tensor]]:
    """Stores features of images and mirror images; they tell which is which."""
    stored = {}
    for image in ids:
        for mirrored in (False, True):
            stored[image, mirrored] = maps(hash((split, ids.index(image), mirrored)) % 2**31)
            name = feature_file(split, image, mirrored)
            Storage(str(experiment)).write(name, packed(stored[image, mirrored], name))
    return stored


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


@pytest.mark.parametrize("mirrored", [False, True])
def test_decoding_gives_stored_features_and_those_of_the_mirror_image_behind_them(
    mirrored: bool, tmp_path: Path
) -> None:
    experiment, ids = tmp_path / "a run of köln", ODD_IDS[::-1]
    stored = fill(experiment, ids, "validation")
    batch = pa.Table.from_pylist([{"image_id": image, "image_uri": "/nowhere"} for image in ids], schema=MANIFEST)
    decoded = DecodeImages(SIZE, features=features(experiment), split="validation", mirrored=mirrored)(batch)
    assert decoded.select(MANIFEST.names) == batch
    length = 4 * sum(each.numel() for each in maps(0))
    for image, data in zip(ids, decoded["image"].to_pylist(), strict=True):
        which = [False, True] if mirrored else [False]
        assert len(data) == length * len(which)
        for place, flip in enumerate(which):
            found = features().maps([data[place * length : (place + 1) * length]], SIZE)
            assert all(map(same, found, stored[image, flip]))


def test_stored_features_come_with_labels_too(tmp_path: Path) -> None:
    label = np.arange(6, dtype=np.uint8).reshape(2, 3)
    Image.fromarray(label).save(tmp_path / "label.png")
    fill(tmp_path, ["i"], "validation")
    row = {"image_id": "i", "image_uri": "/nowhere", "label_uri": str(tmp_path / "label.png"), "height": 2, "width": 3}
    decode = DecodeImages(SIZE, ClassSet("six", tuple("abcdef")), features=features(tmp_path), split="validation")
    assert decode(pa.Table.from_pylist([row], schema=MANIFEST))["label"].to_pylist() == [label.tobytes()]


def test_a_sample_reads_the_mirrored_file_exactly_where_its_labels_are_mirrored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = np.zeros(SIZE, np.uint8)
    label[:, 0] = IGNORE  # on the left, unless mirrored
    Image.fromarray(label).save(tmp_path / "label.png")
    ids = ["i", "j"]
    stored = {split: fill(tmp_path, ids, split) for split in ("source", "pool")}
    bought = pa.table(
        {
            "image_id": ids,
            "y": pa.array([[3], [3]], pa.list_(pa.uint16())),
            "x": pa.array([[0], [0]], pa.list_(pa.uint16())),
            "label": pa.array([[0], [0]], pa.list_(pa.uint8())),
        }
    )
    rows = [
        {
            "row": number, "domain": (SOURCE, TARGET)[number % 2], "show_class": -1, "image_id": ids[number % 3 % 2],
            "image_uri": "/nowhere", "label_uri": str(tmp_path / "label.png"), "height": SIZE[0], "width": SIZE[1],
        }
        for number in range(60)
    ]  # fmt: skip
    monkeypatch.setattr(samples.ray, "get", lambda reference: reference)
    cache = features(tmp_path)
    load = LoadSamples(
        sizes={SOURCE: SIZE, TARGET: SIZE}, classes=ClassSet("two", ("a", "b"), ignore_ids=(IGNORE,)),
        labels=bought, seed=4,
        augment=AugmentationConfig(color_jitter=0.0), features=cache,
    )  # fmt: skip
    loaded = load(pa.Table.from_pylist(rows, schema=SCHEDULE))
    (found,) = batch_to_tensors(loaded, torch.device("cpu"), cache)
    left_is_void = (found.labels[:, 0, 0] == IGNORE).tolist()
    assert left_is_void == (found.labels[:, 0, -1] != IGNORE).tolist()
    mirrored = [not there for there in left_is_void] + (found.points.x == 1).tolist()
    assert found.points.image.tolist() == list(range(30, 60))
    assert set(found.points.x.tolist()) == {0, 1}
    assert all(5 < sum(half) < 25 for half in (mirrored[:30], mirrored[30:]))
    ordered = sorted(rows, key=lambda row: row["domain"] != SOURCE)
    for place, (row, flip) in enumerate(zip(ordered, mirrored, strict=True)):
        expected = stored["source" if row["domain"] == SOURCE else "pool"][row["image_id"], flip]
        assert all(same(each[place : place + 1], other) for each, other in zip(found.images, expected, strict=True))


def test_images_and_features_become_what_a_segmenter_takes() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    found = network_input([image.tobytes() for image in images], SIZE, None, "cpu")
    np.testing.assert_array_equal(found.numpy(), images)
    stored = [maps(seed) for seed in (5, 6)]
    found = network_input([content(each) for each in stored], SIZE, features(), "cpu")
    assert all(same(one, torch.cat(pair)) for one, pair in zip(found, zip(*stored, strict=True), strict=True))
