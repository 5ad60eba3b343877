"""Pictures of an inspection take the place of none that somebody else made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from halo_ray.data.classes import class_set
from halo_ray.data.inspection import Inspection, SplitInspection
from halo_ray.data.manifest import SPLITS, DataConfig, list_splits
from halo_ray.data_report import JSON_KEYS, PICTURES, as_json, check_pictures, write_pictures
from halo_ray.errors import InputError
from halo_ray.figures import as_png, save_figure
from halo_ray.png_mark import mark
from halo_ray.predict_outputs import mark as mark_of_predict
from halo_ray.root import INSPECTOR, begin_root, check_root
from halo_ray.storage import Storage

OURS = PICTURES[0]


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path / "run"))
    return Storage(request.getfixturevalue("s3").uri(f"pictures/{tmp_path.name}"))


def inspected(storage: Storage) -> None:
    for name in PICTURES:
        save_figure(Figure(figsize=(1, 1)), storage, name, mark(INSPECTOR))


def test_an_experiment_begins_where_an_inspection_was_made(storage: Storage) -> None:
    for _ in range(2):
        inspected(storage)
        assert not check_root(storage, "experiment")
        check_pictures(storage)


def test_pictures_that_are_written_are_known_again(tmp_path: Path) -> None:
    config, classes = DataConfig(), class_set(DataConfig().class_set)
    found = Inspection({split: SplitInspection() for split in SPLITS})
    for one in found.splits.values():
        one.class_pixels = np.arange(len(classes.classes) + 1)
    storage = Storage(str(tmp_path / "run"))
    for _ in range(2):
        names = write_pictures(list_splits(config, "", 0), found, classes, storage)
        assert not check_root(storage, "experiment")
    assert set(names) == set(PICTURES)
    assert set(as_json(found, classes)) == set(JSON_KEYS)


def photo(path: Path) -> None:
    Image.new("RGB", (8, 6)).save(path)


PLANTS: dict[str, Callable[[Path], None]] = {
    "a picture": photo,
    "a plot": lambda path: path.write_bytes(as_png(Figure())) and None,
    "a class map": lambda path: Image.new("P", (8, 6)).save(path, pnginfo=mark_of_predict()),
    "no picture": lambda path: path.write_text("halo_ray inspect_data") and None,
    "a link to one of ours": lambda path: path.symlink_to("source.png"),
    "a directory": Path.mkdir,
}


@pytest.mark.parametrize("how", PLANTS)
@pytest.mark.parametrize("begun", [False, True])
def test_what_no_inspection_wrote_stays(tmp_path: Path, how: str, begun: bool) -> None:
    storage = Storage(str(tmp_path / "run"))
    inspected(storage)
    path = tmp_path / "run" / OURS
    path.unlink()
    PLANTS[how](path)
    if begun:
        begin_root(storage, "experiment")
        assert check_root(storage, "experiment")
    else:
        with pytest.raises(InputError, match=OURS):
            check_root(storage, "experiment")
    with pytest.raises(InputError, match=OURS):
        check_pictures(storage)


def test_other_files_beside_the_pictures_are_somebody_elses(storage: Storage) -> None:
    inspected(storage)
    storage.write("inspection/notes.txt", b"mine")
    with pytest.raises(InputError, match="notes"):
        check_root(storage, "experiment")
    check_pictures(storage)  # none would be replaced


def test_a_directory_of_a_sweep_holds_no_inspection(storage: Storage) -> None:
    inspected(storage)
    with pytest.raises(InputError, match="inspection"):
        check_root(storage, "sweep")


def test_a_file_in_place_of_the_directory_is_somebody_elses(storage: Storage) -> None:
    storage.write("inspection", b"mine")
    with pytest.raises(InputError, match="inspection"):
        check_root(storage, "experiment")
