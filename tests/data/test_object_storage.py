"""Images in a bucket of a real S3 server: listed and read as from a disk, and what is said when it refuses."""

from pathlib import Path

import numpy as np
import pytest

from halo_ray.benchmarks.object_store import object_store
from halo_ray.data.classes import class_set
from halo_ray.data.decoding import DecodeImages
from halo_ray.data.inspection import InspectRecords
from halo_ray.data.readers import SplitConfig, list_split
from halo_ray.errors import BadRecordError, InputError
from halo_ray.storage import Storage

NIGHT = SplitConfig(reader="folder", images="night/images/*.jpg", labels="night/labels/*.png")


@pytest.fixture
def stored(dataset: Path, s3) -> str:
    if not s3.keys("a b/köln"):
        s3.upload(dataset, "a b/köln")
    return s3.uri("a b/köln")


def test_a_split_in_a_bucket_lists_and_reads_as_on_a_disk(dataset: Path, stored: str) -> None:
    here, there = (list_split(NIGHT, root, key="data.pool") for root in (str(dataset), stored))
    assert there["image_id"].to_pylist() == here["image_id"].to_pylist() == list("012345")
    assert all(uri.startswith("s3://streets/a%20b/k%C3%B6ln/night/images/") for uri in there["image_uri"].to_pylist())
    sizes = [72] * 6, [100] * 6
    decode = DecodeImages((64, 96), class_set(f"{dataset}/classes.yaml"))
    batches = [
        decode(
            t.drop_columns(["height", "width"]).append_column("height", [sizes[0]]).append_column("width", [sizes[1]])
        )
        for t in (here, there)
    ]
    for name in ("image", "label"):
        assert batches[0][name].to_pylist() == batches[1][name].to_pylist()


@pytest.mark.parametrize(
    ("path", "bucket", "part"),
    [
        ("nowhere", None, "no directory"),
        ("", "no-such-bucket", "no directory"),
        ("a b/köln/classes.yaml", None, "is a file"),
        ("a b/köln/night/labels", None, "no images"),
    ],
)
def test_a_root_that_is_not_there_is_named(s3, stored: str, path: str, bucket: str | None, part: str) -> None:
    root = s3.uri(path, bucket)
    with pytest.raises(InputError, match=part) as error:
        list_split(NIGHT, root, key="data.pool")
    assert str(error.value).startswith("data.pool: ")
    assert root in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_credentials_are_said_for_images_and_experiment(s3_with_keys) -> None:
    root = s3_with_keys.uri("images")
    with pytest.raises(InputError, match=r"data\.pool: .*(cannot be listed|cannot open).*credentials") as error:
        list_split(NIGHT, root, key="data.pool")
    assert root in str(error.value)
    with pytest.raises(InputError, match=r"output_dir .*cannot be written to") as error:
        Storage(s3_with_keys.uri("run")).check_writable()
    assert "\n" not in str(error.value)


def test_an_experiment_in_a_bucket_that_is_not_there_is_an_error(s3) -> None:
    with pytest.raises(InputError, match=r"output_dir .*no-such-bucket.*cannot be written to") as error:
        Storage(s3.uri("run", "no-such-bucket")).check_writable()
    assert "\n" not in str(error.value)


def test_an_image_that_vanished_from_the_bucket_is_named(s3, stored: str) -> None:
    table = list_split(NIGHT, stored, key="data.pool")
    s3.client().delete_object(Bucket=s3.bucket, Key="a b/köln/night/images/3.jpg")
    with pytest.raises(BadRecordError, match=r"night/images/3\.jpg"):
        DecodeImages((64, 96))(table)
    assert (
        np.sum([problem is None for problem in DecodeImages((64, 96), keep_bad=True)(table)["problem"].to_pylist()])
        == 5
    )
    s3.client().put_object(Bucket=s3.bucket, Key="a b/köln/night/images/3.jpg", Body=b"")
    with pytest.raises(BadRecordError, match=r"night/images/3\.jpg.*empty"):
        DecodeImages((64, 96))(table)


def test_a_store_that_does_not_answer_makes_no_record_bad(
    dataset: Path, s3_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else good images would be left out for ever because of a bad moment."""
    monkeypatch.setattr("halo_ray.data.images.READ_PATIENCE", 2.0)
    with object_store() as store:
        store.upload(dataset, "data")
        table = list_split(NIGHT, store.uri("data"), key="data.pool")
    with pytest.raises(InputError, match=r"night/images/0\.jpg.* cannot be read now") as error:
        InspectRecords(class_set(f"{dataset}/classes.yaml"))(table)
    assert not isinstance(error.value, BadRecordError)
