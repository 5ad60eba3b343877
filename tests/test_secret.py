"""Credentials in URIs are neither shown nor stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from halo_ray.config import Config, config_to_yaml, identity
from halo_ray.data.listing import MANIFEST
from halo_ray.data.manifest import Splits, load_splits, save_splits
from halo_ray.data.readers import SplitConfig
from halo_ray.errors import InputError
from halo_ray.job import exit_code
from halo_ray.secret import redacted
from halo_ray.storage import Storage

SECRET = "wJalr/XUtn%2FEMI"
URI = f"s3://AKIA1:{SECRET}@bucket/run?scheme=http&secret_key={SECRET}&region=eu"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://AKIA1:hidden@bucket/a b", "s3://***@bucket/a b"),
        ("s3://AKIA1:hid/den@bucket/a", "s3://***@bucket/a"),
        ("gs://me@bucket", "gs://***@bucket"),
        ("no s3://a:b@c/d, nor gs://e:f@g: mend it", "no s3://***@c/d, nor gs://***@g: mend it"),
        ("s3://b/x?session_token=abc&scheme=http", "s3://b/x?session_token=***&scheme=http"),
        ("s3://b/x?scheme=http&ACCESS_KEY=a1 and more", "s3://b/x?scheme=http&ACCESS_KEY=*** and more"),
        ("s3://bucket/who@where/x", "s3://bucket/who@where/x"),
        ("/data/a:b@c/d?key=1", "/data/a:b@c/d?key=***"),
        ("mail me@here.org", "mail me@here.org"),
    ],
)
def test_user_password_and_keys_are_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_a_configuration_is_stored_and_compared_without_them() -> None:
    split = SplitConfig(reader="folder", images="*.jpg", labels="*.png", root=URI)
    config = Config(output_dir=URI, data_root=URI)
    config = replace(config, data=replace(config.data, pool=split, known_labels=URI))
    assert SECRET not in config_to_yaml(config)
    other = replace(config, data=replace(config.data, known_labels=URI.replace(SECRET, "another")))
    assert identity(config) == identity(other)


def test_manifests_are_stored_without_them(tmp_path: Path) -> None:
    row = {"image_id": "1", "image_uri": URI, "label_uri": None, "label_format": None, "height": 2, "width": 3}
    table = pa.Table.from_pylist([row], schema=MANIFEST)
    storage = Storage(str(tmp_path))
    save_splits(Splits(table, table, table), storage)
    assert load_splits(storage).pool["image_uri"].to_pylist() == [redacted(URI)]


@pytest.mark.parametrize(("kind", "code"), [(InputError, 2), (RuntimeError, 1)])
def test_errors_are_said_without_them(kind: type[Exception], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise kind(f"{URI} is not there")

    assert exit_code(fail) == code
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    assert "s3://***@bucket/run?scheme=http&secret_key=***&region=eu is not there" in said.err
    assert ("Traceback" in said.err) == (code == 1)


def test_a_storage_is_printed_without_them() -> None:
    assert SECRET not in repr(Storage("s3://AKIA1:secret%2Fkey@bucket/x?region=eu".replace("secret%2Fkey", "wJ")))
