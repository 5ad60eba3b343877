"""Places are what was meant, whatever their credentials hold; local names are never altered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from odd_secrets import (
    ODD,
    as_written,
    characters,
    error,
    fresh,
    is_clear,
    secrets,
    slow,
)
from PIL import Image

from halo_ray.annotations.folder import round_of, with_ids
from halo_ray.annotations.pictures import read_frame
from halo_ray.annotations.serve import _frames
from halo_ray.benchmarks.object_store import ObjectStore
from halo_ray.data.listing import MANIFEST, Root
from halo_ray.data.manifest import Splits, load_splits, save_splits
from halo_ray.data.stored_uris import without_credentials
from halo_ray.errors import InputError
from halo_ray.exclusive import _store
from halo_ray.filesystems import resolve
from halo_ray.place import parse as parsed
from halo_ray.secret import redacted, shown, stored
from halo_ray.storage import Storage


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    with fresh():
        yield


@given(user=secrets, password=secrets, token=secrets, raw=st.booleans())
@example("AKIA", "a@b:c/d?e#f", "x&y=z", True)
@example("a@b", "@", "@", True)
@settings(deadline=None)
def test_a_place_gives_back_what_was_written(user: str, password: str, token: str, raw: bool) -> None:
    assume(all(is_clear(each, raw) for each in (user, password, token)) and not (raw and re.search("[/?#:]", user)))
    written = [as_written(each, raw) for each in (user, password, token)]
    assume("@" not in written[2] or not raw)  # where it would end the password
    place = parsed("foo://{}:{}@host/a%20b/c?region=eu&token={}&scheme=http".format(*written))
    assert (place.user, place.password) == (user, password)
    assert place.options == {"region": "eu", "token": token, "scheme": "http"}
    assert (place.host, place.path) == ("host", "/a%20b/c")
    assert parsed(place.canonical.text).password == password
    assert place.bare == "foo://host/a%20b/c?region=eu&scheme=http"
    assert place.shown == "foo://***@host/a%20b/c?region=eu&token=***&scheme=http"


@given(password=secrets, raw=st.booleans())
@slow
def test_the_stores_are_given_the_secret_that_was_meant(password: str, raw: bool) -> None:
    assume(is_clear(password, raw))
    uri = f"s3://AKIA:{as_written(password, raw)}@bucket/a%20b?region=eu&endpoint_override=127.0.0.1:1&scheme=http"
    filesystem, path = resolve(uri)
    assert path == "bucket/a b"
    assert filesystem.__reduce__()[1][0]["secret_key"] == password
    config = _store(uri, filesystem, "bucket").config
    assert (config["access_key_id"], config["secret_access_key"]) == ("AKIA", password)


def test_odd_secrets_open_a_real_store(s3: ObjectStore, tmp_path: Path) -> None:
    place, options = f"{s3.bucket}/secret/{tmp_path.name}", s3.uri("").partition("?")[2]
    for number, secret in enumerate(ODD[:6]):
        storage = Storage(f"s3://AKIA:{secret}@{place}/{number}?{options}")
        name = "what?token=1@2x#%41.png"
        storage.create(name, b"1")
        found = Root(storage.uri).path_uri(Root(storage.uri).find("*.png")["what?token=1@2x#%41"])
        filesystem, path = resolve(found)
        with filesystem.open_input_stream(path) as file:
            assert file.read() == b"1"
        assert storage.below("deep").uri.startswith(f"s3://AKIA:{secret}@{place}/{number}/deep?")


NAMES = [
    "a?token=x.png",
    "b:/c@d.png",
    "a#b.png",
    "%41.png",
    "s3:/a:b@c.png",
    "a b@2x.png",
    "x?secret_key=1&y=2.png",
    "***.png",
]


@given(name=st.text(characters, min_size=1, max_size=30) | st.sampled_from(NAMES))
@settings(deadline=None)
def test_a_local_name_is_never_altered(name: str) -> None:
    path = f"/data/{name}"
    assert shown(path) == stored(path) == path
    assume(not re.search(r"(?<![\w/.+-])[A-Za-z][\w+.-]+://", path))
    assert redacted(f"image {path} is not there: add it") == f"image {path} is not there: add it"
    assert str(InputError(path)) == path


def test_images_of_odd_names_are_stored_read_and_asked_as_they_are(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2)).save(tmp_path / "images" / name)
    root = Root(str(tmp_path / "images"))
    uris = {image_id: root.path_uri(path) for image_id, path in sorted(root.find("*.png").items())}
    assert sorted(uris.values()) == sorted(str(tmp_path / "images" / name) for name in NAMES)
    rows = [{"image_id": key, "image_uri": uri, "label_uri": uri, "height": 2, "width": 3} for key, uri in uris.items()]
    table = pa.Table.from_pylist(rows, schema=MANIFEST)
    storage = Storage(str(tmp_path / "run?token=1"))
    save_splits(Splits(table, table, table), storage)
    assert load_splits(storage).pool.equals(table)
    for uri, size in _frames(storage, None).values():  # of the page on which people answer
        assert read_frame(uri, size).size == (3, 2)
    picks = pa.array([[{"y": 1, "x": 2}]] * len(rows))
    asked, again = (with_ids(each.append_column("picks", picks), 1, "m") for each in (table, load_splits(storage).pool))
    assert asked["ids"].equals(again["ids"])
    assert {round_of(each) for ids in again["ids"].to_pylist() for each in ids} == {1}


def test_manifests_are_stored_without_credentials(tmp_path: Path) -> None:
    row = {
        "image_id": "1",
        "image_uri": "s3://AKIA1:a/b@bucket/run?scheme=http&secret_key=c&region=eu",
        "label_uri": None,
        "label_format": None,
        "height": 2,
        "width": 3,
    }
    table = pa.Table.from_pylist([row], schema=MANIFEST)
    storage = Storage(str(tmp_path))
    save_splits(Splits(table, table, table), storage)
    assert load_splits(storage).pool["image_uri"].to_pylist() == ["s3://bucket/run?scheme=http&region=eu"]


parts = st.sampled_from(
    ["s3", "gs", "hdfs", "foo", "anonymous", "/data", "bucket", "a", "://", "@", ":", "/", "?", "#", "%40"]
)
parts |= st.sampled_from(["region=eu", "token=x", "sig=x", "user=x", "&", ";", "x=1", "8020", " ", "é", "***"])


@given(uris=st.lists(st.none() | st.lists(parts, max_size=12).map("".join), max_size=8), chunks=st.integers(1, 3))
@example(["s3://a:b@c/d?token=x&region=eu", None, "/x", "s3://a:b@c/e", "gs://anonymous@b/x"], 2)
@settings(deadline=None, max_examples=300)
def test_a_column_is_stored_as_its_rows_are(uris: list[str | None], chunks: int) -> None:
    column = pa.chunked_array([pa.array(uris[start::chunks], pa.string()) for start in range(chunks)], pa.string())
    expected = [uri if uri is None else stored(uri) for uri in column.to_pylist()]
    assert without_credentials(column).to_pylist() == expected


@given(text=st.lists(parts, max_size=14).map("".join))
@settings(deadline=None, max_examples=300)
def test_what_is_shown_stays_as_it_is_when_it_is_shown_again(text: str) -> None:
    assert shown(shown(text)) == shown(text)
    assert parsed(stored(text)).bare == stored(text)
    place = parsed(text)
    assert place.has_credentials or (place.shown == place.bare == text)
    assert parsed(place.canonical.text).canonical == place.canonical


OPTIONS = {  # by scheme, those that pyarrow's documentation has in examples or lists, and that hold no secret
    "s3": "region=eu-west-1&scheme=https&endpoint_override=[::1]:9000&tls_ca_file_path=/etc/ssl/ca-1.pem",
    "gs": "scheme=http&endpoint_override=localhost:4443&retry_limit_seconds=2.5&project_id=mine-1",
    "hdfs": "user=test&replication=1&buffer_size=512&default_block_size=1048576&kerb_ticket=/tmp/krb5cc_1",
    "synthetic": "height=40&width=72",
}


@pytest.mark.parametrize(("scheme", "options"), OPTIONS.items())
def test_a_stored_place_keeps_the_options_that_open_it(scheme: str, options: str) -> None:
    uri = f"{scheme}://bucket/a?{options}"
    assert shown(uri) == stored(uri) == uri
    assert stored(f"{uri}&token=hidden&sig=hidden") == uri
    assert stored(f"{scheme}://bucket/a?nobody=knows&{options}") == uri


def test_a_stored_place_opens_the_same_store() -> None:
    options = "region=eu-west-1&scheme=http&endpoint_override=localhost:9&allow_bucket_creation=true"
    (mine, path), (theirs, there) = (
        resolve(uri) for uri in (f"s3://A:b/c@bucket/a?{options}", stored(f"s3://A:b/c@bucket/a?{options}"))
    )
    kept = [filesystem.__reduce__()[1][0] for filesystem in (mine, theirs)]
    assert path == there == "bucket/a"
    for name in ("region", "scheme", "endpoint_override", "allow_bucket_creation"):
        assert kept[0][name] == kept[1][name]
        assert str(kept[0][name]).lower() in options


@pytest.mark.parametrize("uri", ["s3://***@bucket/x", "s3://:secret@bucket", "s3://bucket/a?b", "file:///tmp/a?b=c"])
def test_a_uri_of_which_pyarrow_would_pass_over_a_part_is_refused(uri: str) -> None:
    assert shown(uri) in error(lambda: resolve(uri))
