"""Training samples: the colour of an image says its class, so that any pixel, label and point can be checked."""

import io
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from halo_ray.annotations.ledger import LEDGER, Ledger
from halo_ray.data import samples
from halo_ray.data.classes import IGNORE, ClassSet
from halo_ray.data.listing import MANIFEST
from halo_ray.data.samples import SAMPLES, LoadSamples, Samples, batch_to_tensors
from halo_ray.data.schedule import SCHEDULE, SOURCE, TARGET
from halo_ray.data.transforms import AugmentationConfig
from halo_ray.storage import Storage
from halo_ray.training.losses import point_cross_entropy

CLASSES = ClassSet("ten", tuple("abcdefghij"), ignore_ids=(IGNORE,))
SIZE, LABELS = (32, 48), ("image_id", "y", "x", "label")


@pytest.fixture
def table(tmp_path: Path) -> pa.Table:
    """Three images, each with its label; red is 20 times the class."""
    rows = []
    for number in range(3):
        label = np.random.default_rng(number).integers(0, 10, SIZE, dtype=np.uint8)
        label[0, :5] = IGNORE
        image = np.zeros((*SIZE, 3), np.uint8)
        image[..., 0], image[..., 1] = np.where(label == IGNORE, 0, label * 20), number
        for kind, pixels in (("image", image), ("label", label)):
            Image.fromarray(pixels).save(tmp_path / f"{kind}{number}.png")
        uris = {f"{kind}_uri": str(tmp_path / f"{kind}{number}.png") for kind in ("image", "label")}
        rows.append({"image_id": f"i{number}", "height": SIZE[0], "width": SIZE[1], **uris})
    return pa.Table.from_pylist(rows, schema=MANIFEST)


def scheduled(table: pa.Table, places: list[int], domain: str, first: int = 0) -> pa.Table:
    part = table.take(places).append_column("domain", pa.array([domain] * len(places)))
    part = part.append_column("show_class", pa.array([-1] * len(places), pa.int16()))
    return part.append_column("row", pa.array(range(first, first + len(places)))).select(SCHEDULE.names)


def bought(table: pa.Table, per_image: int = 60) -> pa.Table:
    """The ledger's sparse labels of some pixels of every image, read off the label files."""
    rows = []
    for number, row in enumerate(table.to_pylist()):
        label = np.asarray(Image.open(row["label_uri"]))
        flat = np.random.default_rng([9, number]).permutation(label.size)[: per_image + number]
        y, x = np.divmod(flat, SIZE[1])
        rows.append({"image_id": row["image_id"], "y": y.tolist(), "x": x.tolist(), "label": label[y, x].tolist()})
    kinds = (pa.string(), pa.list_(pa.uint16()), pa.list_(pa.uint16()), pa.list_(pa.uint8()))
    return pa.Table.from_pylist(rows[::-1], schema=pa.schema(list(zip(LABELS, kinds, strict=True))))


def tensors(loaded: pa.Table) -> Samples:
    """Of samples that all have one size."""
    (samples_,) = batch_to_tensors(loaded, torch.device("cpu"))
    return samples_


@pytest.fixture
def loader(table: pa.Table, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(samples.ray, "get", lambda reference: reference)

    def load(
        batch: pa.Table, size: tuple[int, int] = SIZE, seed: int = 1, dense_target: bool = False, **changes: object
    ) -> pa.Table:
        augment = AugmentationConfig(**{"color_jitter": 0.0, **changes})
        return LoadSamples(
            sizes={SOURCE: size, TARGET: size}, classes=CLASSES, labels=bought(table), seed=seed, augment=augment,
            dense_target=dense_target,
        )(batch)  # fmt: skip

    return load


def test_a_source_sample_has_a_dense_label_that_moves_with_its_image(table: pa.Table, loader) -> None:
    batch = scheduled(table, [0, 1, 2] * 4, SOURCE)
    loaded = loader(batch)
    assert loaded.schema == SAMPLES
    assert loaded["image_id"].to_pylist() == batch["image_id"].to_pylist()
    assert loaded["domain"].to_pylist() == [SOURCE] * 12
    images, labels, points, sources, size = tensors(loaded)
    assert (sources, size) == (12, SIZE)
    assert images[:, 0, 0, 1].tolist() == [0, 1, 2] * 4
    known = labels != IGNORE
    torch.testing.assert_close(images[..., 0][known], labels[known] * 20)
    flipped = (labels[:, 0, -1] == IGNORE) & (labels[:, 0, 0] != IGNORE)
    assert 0 < flipped.sum() < 12
    assert (~known).sum() == 12 * 5
    assert [len(values) for values in points] == [0, 0, 0, 0]


def test_every_bought_pixel_of_a_target_sample_lies_on_its_colour(table: pa.Table, loader) -> None:
    loaded = loader(scheduled(table, [2, 0, 1, 0] * 4, TARGET))
    images, labels, points, sources, size = tensors(loaded)
    assert loaded["domain"].to_pylist() == [TARGET] * 16
    assert (labels.shape, sources, size) == ((0, *SIZE), 0, SIZE)
    assert torch.bincount(points.image).tolist() == [62, 60, 61, 60] * 4
    y, x = (points.y * (SIZE[0] - 1)).round().long(), (points.x * (SIZE[1] - 1)).round().long()
    known = points.labels != IGNORE
    torch.testing.assert_close(images[points.image, y, x, 0][known], points.labels[known] * 20)
    assert len({(i, *place) for i, *place in zip(points.image.tolist(), y.tolist(), x.tolist(), strict=True)}) == len(y)
    marks = images[points.image, y, x, 1].tolist()
    assert marks == [number for number in [2, 0, 1, 0] * 4 for _ in range(60 + number)]
    assert len({tuple(row) for row in images[[1, 3, 5, 7, 9]].flatten(1).tolist()}) == 2  # flipped and not


def test_no_point_is_lost_when_the_input_is_smaller_than_the_label(table: pa.Table, loader) -> None:
    batch = scheduled(table, [0, 1], TARGET)
    (full, small) = (tensors(loader(batch, size)) for size in (SIZE, (9, 7)))
    assert small.images.shape == (2, 9, 7, 3)
    for one, other in zip(full.points, small.points, strict=True):
        assert torch.equal(one, other)


def test_a_sample_depends_on_its_row_number_and_not_on_its_batch(table: pa.Table, loader) -> None:
    batch = scheduled(table, [0, 1, 2, 0], TARGET)
    whole = loader(batch, color_jitter=0.3)
    single = pa.concat_tables(loader(batch.slice(i, 1), color_jitter=0.3) for i in range(4))
    assert whole.to_pylist() == single.to_pylist()
    assert whole["image"][0] != whole["image"][3]
    assert loader(batch, color_jitter=0.3, seed=2)["image"] != whole["image"]


def test_source_and_target_rows_mix_in_the_order_of_the_batch(table: pa.Table, loader) -> None:
    parts = [scheduled(table, [0], SOURCE, 4), scheduled(table, [1], TARGET, 5), scheduled(table, [2], SOURCE, 6)]
    together = loader(pa.concat_tables(parts))
    assert together.to_pylist() == [loader(part).to_pylist()[0] for part in parts]
    assert together["domain"].to_pylist() == [SOURCE, TARGET, SOURCE]
    samples_ = tensors(together)
    # Tensors hold those of the source first, of which alone there are dense labels.
    assert samples_.images[:, 0, 10, 1].tolist() == [0, 2, 1]
    assert samples_.sources == 2
    assert samples_.labels.shape == (2, *SIZE)
    known = samples_.labels != IGNORE
    torch.testing.assert_close(samples_.images[:2, ..., 0][known], samples_.labels[known] * 20)
    assert samples_.points.image.tolist() == [2] * 61


def test_a_pool_image_without_a_label_has_no_points(table: pa.Table, loader) -> None:
    """As negative learning sees it."""
    names = pa.array(["i0", "unlabelled", "i2"])
    batch = scheduled(table, [0, 1, 2], TARGET)
    batch = batch.set_column(batch.schema.get_field_index("image_id"), "image_id", names)
    samples_ = tensors(loader(batch))
    assert torch.bincount(samples_.points.image, minlength=3).tolist() == [60, 0, 62]
    assert samples_.images[:, 0, 10, 1].tolist() == [0, 1, 2]
    alone = tensors(loader(batch.slice(1, 1)))
    assert [len(values) for values in alone.points] == [0, 0, 0, 0]
    assert [values.dtype for values in alone.points] == [torch.int64, torch.float32, torch.float32, torch.uint8]


def test_under_full_supervision_pool_images_have_dense_labels_instead_of_points(table: pa.Table, loader) -> None:
    rows = pa.concat_tables([scheduled(table, [0, 1, 2] * 2, TARGET), scheduled(table, [2], SOURCE, 6)])
    samples_ = tensors(loader(rows, dense_target=True))
    assert samples_.sources == 1
    assert samples_.labels.shape == (7, *SIZE)
    assert len(samples_.points.labels) == 0
    assert samples_.images[:, 0, 10, 1].tolist() == [2, 0, 1, 2, 0, 1, 2]
    known = samples_.labels != IGNORE
    torch.testing.assert_close(samples_.images[..., 0][known], samples_.labels[known] * 20)
    assert (~known).sum() == 7 * 5
    # The same changes at random as where its points alone are asked.
    assert torch.equal(samples_.images[1:], tensors(loader(rows.slice(0, 6))).images)


def test_a_batch_without_any_point_still_gives_a_loss(table: pa.Table, loader) -> None:
    points = tensors(loader(scheduled(table, [0, 1], SOURCE))).points
    assert [values.dtype for values in points] == [torch.int64, torch.float32, torch.float32, torch.uint8]
    total, count = point_cross_entropy(torch.randn(2, 10, 8, 12), *points)
    assert (total.item(), count.item()) == (0, 0)


def test_samples_of_two_sizes_come_apart(table: pa.Table, loader) -> None:
    """Source images have a size of their own."""
    sizes = {SOURCE: (20, 30), TARGET: (12, 18)}
    load = LoadSamples(sizes=sizes, classes=CLASSES, labels=bought(table), seed=1, augment=AugmentationConfig())
    rows = pa.concat_tables([scheduled(table, [1], TARGET), scheduled(table, [0, 2], SOURCE, 1)])
    loaded = load(rows)
    assert [(row["height"], row["width"]) for row in loaded.to_pylist()] == [(12, 18), (20, 30), (20, 30)]
    source, target = batch_to_tensors(loaded, torch.device("cpu"))
    assert source.images.shape == (2, 20, 30, 3)
    assert target.images.shape == (1, 12, 18, 3)
    assert (source.sources, source.size, source.labels.shape) == (2, (20, 30), (2, 20, 30))
    assert (target.sources, target.size, target.labels.shape) == (0, (12, 18), (0, 12, 18))
    assert len(source.points.labels) == 0
    assert target.points.image.tolist() == [0] * 61


def test_a_window_shows_the_class_that_its_row_wants(table: pa.Table, loader, tmp_path: Path) -> None:
    """The wanted class is a spot in a corner, which few windows meet."""
    label = np.zeros((200, 300), np.uint8)
    label[160:, 240:] = 7
    for kind in ("image", "label"):
        Image.fromarray(label).save(tmp_path / f"spot-{kind}.png")
    uris = {f"{kind}_uri": str(tmp_path / f"spot-{kind}.png") for kind in ("image", "label")}
    one = pa.Table.from_pylist([{"image_id": "spot", "height": 200, "width": 300, **uris}], schema=MANIFEST)
    rows = scheduled(one, [0] * 60, SOURCE)
    wanting = rows.set_column(rows.schema.get_field_index("show_class"), "show_class", pa.array([7] * 60, pa.int16()))
    shown = {}
    for name, batch in (("any", rows), ("wanted", wanting)):
        load = LoadSamples(
            sizes={SOURCE: (100, 150), TARGET: SIZE}, classes=CLASSES, labels=bought(table), seed=1,
            augment=AugmentationConfig(random_scale=(1.0, 1.2)), show_pixels=5,
        )  # fmt: skip
        (samples_,) = batch_to_tensors(load(batch), torch.device("cpu"))
        shown[name] = int(((samples_.labels == 7).sum((1, 2)) > 5).sum())
    assert shown["any"] < 25
    assert shown["wanted"] > 35


def test_every_bought_pixel_gets_from_the_ledger_to_the_loss(table: pa.Table, loader, tmp_path: Path) -> None:
    """Counted at a quarter of the label's resolution, where a label resized with nearest would keep a sixteenth."""
    ledger, rows = Ledger(Storage(str(tmp_path / "run"))), []
    for number, image in enumerate(table.to_pylist()):
        flat = np.random.default_rng(number).permutation(SIZE[0] * SIZE[1])[: 200 + number]
        y, x = np.divmod(flat, SIZE[1])
        rows += [
            {**dict.fromkeys(LEDGER.names), "image_id": image["image_id"], "y": a, "x": b, "label": (a + b) % 10}
            for a, b in zip(y.tolist(), x.tolist(), strict=True)
        ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=LEDGER), buffer)
    ledger.commit(0, buffer.getvalue())
    ledger.seal(0)
    small = {SOURCE: (8, 12), TARGET: (8, 12)}
    load = LoadSamples(
        sizes=small, classes=CLASSES, labels=ledger.sparse_labels(1), seed=1, augment=AugmentationConfig()
    )
    samples_ = tensors(load(scheduled(table, [0, 1, 2], TARGET)))
    logits = torch.zeros(3, 10, 2, 3)
    total, count = point_cross_entropy(logits, *samples_.points)
    assert count.item() == len(rows) == 603
    assert total.item() == pytest.approx(603 * math.log(10), rel=1e-5)
    kept = np.asarray(Image.fromarray(np.arange(SIZE[0] * SIZE[1], dtype=np.int32).reshape(SIZE)).resize((12, 8), 0))
    assert np.isin(kept, np.arange(SIZE[0] * SIZE[1])).sum() / (SIZE[0] * SIZE[1]) == 1 / 16
