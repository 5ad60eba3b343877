"""The annotation ledger: one row per labelled pixel, append-only, a Parquet file for each round."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from halo_ray.acquisition.regions import exclusion_mask
from halo_ray.data.classes import IGNORE
from halo_ray.errors import InputError
from halo_ray.storage import Storage, round_directory

LEDGER = pa.schema(
    [
        ("image_id", pa.string()),
        ("round", pa.int32()),
        ("y", pa.uint16()),
        ("x", pa.uint16()),
        ("region_y", pa.uint16()),
        ("region_x", pa.uint16()),
        ("label", pa.uint8()),
        ("score", pa.float32()),
        ("radius", pa.float32()),
        ("entropy", pa.float32()),
        ("guess", pa.uint8()),
        ("probability", pa.float32()),
        ("oracle", pa.string()),
        ("model", pa.string()),
    ]
)
"""y and x are the pixel at label resolution, region_y and region_x the pick it was bought with; score to probability
are what the model said at that pick; model is the checksum of the weights that chose it. Round 0 holds labels that the
user had: nothing chose those, so score to probability and model are null."""

COUNTS = pa.schema([("round", pa.int32()), ("label", pa.uint8()), ("pixels", pa.int64())])
"""Pixels of each class (IGNORE: void, or nobody could tell) in each round."""

PLACES = pa.schema([("image_id", pa.string()), ("y", pa.list_(pa.uint16())), ("x", pa.list_(pa.uint16()))])
"""A row for each image that has any. Never Python numbers: a run of the paper asks for 10⁷ regions."""


class Ledger:
    """The committed rounds of an experiment's ledger: 0 is what the user had, round n the n-th purchase.

    Reading raises InputError where a file is missing or not what was committed, and names it.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @staticmethod
    def file(number: int) -> str:
        return f"{round_directory(number)}/annotations/ledger.parquet"

    @staticmethod
    def checksum_file(number: int) -> str:
        """The SHA-256 of the round's file, as ``sha256sum -c`` reads it."""
        return f"{Ledger.file(number)}.sha256"

    def committed(self, number: int) -> bool:
        return self._storage.exists(self.file(number))

    def commit(self, number: int, data: bytes) -> None:
        """Commits the Parquet file (LEDGER) of a round; of several writers only one can.

        Round 0 counts for nothing before the experiment has begun, and may be written again until then.

        Raises:
            InputError: another one has committed something else.
        """
        try:
            if number == 0:
                self._storage.commit(self.file(0), data)
            else:
                self._storage.create(self.file(number), data)
        except FileExistsError as error:
            # The same rows are the same purchase, told twice.
            if self._storage.read(self.file(number)) != data:
                raise InputError(
                    f"another run has committed round {number} of {self._storage.uri} meanwhile: let only one run work "
                    "on an experiment; the same command again goes on from what is committed"
                ) from error
        self._storage.write_checksum(self.file(number), data)

    def seal(self, number: int) -> int:
        """Stores the checksum of a committed round where a run died before it could; returns the round's pixels."""
        if not self._storage.exists(self.checksum_file(number)):
            data = self._storage.read(self.file(number))
            self._storage.as_table(self.file(number), data)
            self._storage.write_checksum(self.file(number), data)
        return int(self._rows(number, []).num_rows)

    def digest(self, number: int) -> str:
        """The SHA-256 of a committed round's file."""
        return hashlib.sha256(self._storage.read_checked(self.file(number))).hexdigest()

    def read(self, before: int, columns: list[str] | None = None, first: int = 0) -> pa.Table:
        """Rows of the rounds first..before−1, in the order of their commit."""
        columns = LEDGER.names if columns is None else columns
        parts = [self._rows(number, columns) for number in range(first, before)]
        return pa.concat_tables(parts) if parts else LEDGER.empty_table().select(columns)

    def asked_regions(self, before: int, first: int = 0) -> pa.Table:
        """PLACES of the regions asked in rounds first..before−1, each region once."""
        table = self.read(before, ["image_id", "region_y", "region_x"], first)
        regions = table.group_by(table.column_names, use_threads=False).aggregate([])
        return _places(regions, "region_y", "region_x")

    def labelled_pixels(self, before: int, image_ids: pa.ChunkedArray) -> pa.Table:
        """PLACES of the pixels of some images that have an answer."""
        table = self.read(before, ["image_id", "y", "x"])
        return _places(table.filter(pc.is_in(table["image_id"], image_ids)), "y", "x")

    def sparse_labels(self, before: int) -> pa.Table:
        """Labelled pixels of each image as lists: image_id, y, x, label; sorted by image_id."""
        table = self.read(before, ["image_id", "y", "x", "label"])
        order = np.argsort(table["image_id"].to_numpy(zero_copy_only=False).astype(str), kind="stable")
        table = table.take(order)
        lists = table.group_by("image_id", use_threads=False).aggregate(
            [(name, "list") for name in ("y", "x", "label")]
        )
        return lists.rename_columns({"y_list": "y", "x_list": "x", "label_list": "label"})

    def dense_label(self, before: int, image_id: str, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """(H, W) classes of an image of ``size`` = (H, W), IGNORE where there is no answer."""
        mine = self._of_image(before, ["y", "x", "label"], image_id)
        label = np.full(size, IGNORE, np.uint8)
        label[mine["y"].to_numpy(), mine["x"].to_numpy()] = mine["label"].to_numpy()
        return label

    def exclusion_mask(self, before: int, image_id: str, size: tuple[int, int], radius: int) -> npt.NDArray[np.bool_]:
        """(H, W): where no region may be centred any more, within ``radius`` pixels of one that was asked."""
        mine = self._of_image(before, ["region_y", "region_x"], image_id)
        regions = mine.select(["region_y", "region_x"]).group_by(["region_y", "region_x"]).aggregate([])
        y, x = (torch.from_numpy(regions[name].to_numpy().astype(np.int64)) for name in ("region_y", "region_x"))
        mask: npt.NDArray[np.bool_] = exclusion_mask(size, y, x, radius).numpy()
        return mask

    def class_counts(self, before: int) -> pa.Table:
        """COUNTS of the rounds 0..before−1, sorted."""
        table = self.read(before, ["round", "label"])
        counts = table.group_by(["round", "label"]).aggregate([([], "count_all")])
        counts = counts.rename_columns({"count_all": "pixels"}).select(COUNTS.names)
        return counts.sort_by([("round", "ascending"), ("label", "ascending")])

    def _of_image(self, before: int, columns: list[str], image_id: str) -> pa.Table:
        table = self.read(before, ["image_id", *columns])
        return table.filter(pc.equal(table["image_id"], image_id))

    def _rows(self, number: int, columns: list[str]) -> pa.Table:
        """Columns of a round's file, which is whole and as it was committed."""
        name, wanted = self.file(number), columns if "round" in columns else ["round", *columns]
        table = self._storage.as_table(name, self._storage.read_checked(name), wanted)
        if others := set(table["round"].unique().to_pylist()) - {number, None}:
            raise self._storage.damaged(name, f"it holds round {min(others)}")
        return table.select(columns)


def places_of(places: pa.Table, image_ids: pa.ChunkedArray) -> pa.Table:
    """The row of PLACES of each image; empty lists for those that have none."""
    none = pa.table([[""], [[]], [[]]], schema=PLACES)
    row = pc.fill_null(pc.index_in(image_ids, value_set=places["image_id"].combine_chunks()), places.num_rows)
    return pa.concat_tables([places, none]).take(row)


def region_count(places: pa.Table) -> int:
    """How many places PLACES hold."""
    return int(pc.sum(pc.list_value_length(places["y"])).as_py() or 0)


def _places(table: pa.Table, y: str, x: str) -> pa.Table:
    lists = table.group_by("image_id", use_threads=False).aggregate([(y, "list"), (x, "list")])
    return lists.select(["image_id", f"{y}_list", f"{x}_list"]).rename_columns(PLACES.names).cast(PLACES)
