"""Credentials in places are neither shown nor stored, whatever they hold.

Secrets are generated from all characters. What is said of a place is compared with what is said of the same
place with another secret: whoever reads it must not be able to tell the two apart.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from odd_secrets import (
    ANOTHER,
    ODD,
    as_written,
    characters,
    error,
    forms,
    fresh,
    is_clear,
    secrets,
    slow,
    tells_nothing,
)

from halo_ray.config import Config, config_from_yaml, config_to_yaml, identity
from halo_ray.data.classes import class_set
from halo_ray.data.listing import Root
from halo_ray.data.readers import SplitConfig
from halo_ray.errors import InputError, one_line
from halo_ray.filesystems import resolve
from halo_ray.job import exit_code
from halo_ray.place import _IS_HARMLESS
from halo_ray.secret import redacted, shown, stored
from halo_ray.storage import Storage
from halo_ray.sweep import trials
from halo_ray.sweep.space import SearchSpace

SECRET = "wJalr/XUtn%2FEMI"
URI = f"s3://AKIA1:{SECRET}@bucket/run?scheme=http&secret_key={SECRET}&region=eu"


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    with fresh():
        yield


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://AKIA1:hidden@bucket/a b", "s3://***@bucket/a b"),
        ("s3://AKIA1:hid/den@bucket/a", "s3://***@bucket/a"),
        ("gs://me@bucket", "gs://***@bucket"),
        ("no s3://a:b@c/d, nor gs://e:f@g: fix it", "no s3://***@c/d, nor gs://***@g: fix it"),
        ("s3://b/x?session_token=abc&scheme=http", "s3://b/x?session_token=***&scheme=http"),
        ("s3://b/x?scheme=http&ACCESS_KEY=a1 and more", "s3://b/x?scheme=http&ACCESS_KEY=*** and more"),
        ("synthetic://a/1/2?height=3?secret_key=x", "synthetic://a/1/2?height=3&secret_key=***"),
        ("'foo://b?token=ab'c'.", "'foo://b?token=***'."),
        ("no foo://KEY:two words@host here", "no foo://***@host here"),
        (r"\ns3://a:b@c", "\\ns3://***@c"),
        ("foo://***@bucket?key=***", "foo://***@bucket?key=***"),
    ],
)
def test_credentials_of_uris_in_a_text_are_hidden(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/who@where/x",
        "s3://bucket: ask me@here.org",
        "gs://anonymous@bucket/x",
        "hdfs://me@host:8020/a@b",
        "hdfs://[::1]:8020/a@b:c",
        "see http://localhost:8000/x and ask me@here.org",
        "/data/a:b@c/d?key=1",
        "image /data/b://c@d.png is not there",
        "image /data/foo://a:b@c?token=d is not there",
        "mail me@here.org",
        "x" * 5000 + "?token=1@" * 1000,
    ],
)
def test_a_text_without_credentials_stays(text: str) -> None:
    assert redacted(text) == text


@given(secret=secrets, raw=st.booleans())
@slow
def test_no_error_tells_a_password(secret: str, raw: bool) -> None:
    assume(is_clear(secret, raw))
    uris = [
        "foo://KEY:{}@host/x.yaml",
        "s3://AKIAIOSFODNN7:{}@bucket/x.yaml?nonsense=1",
        "s3://AKIAIOSFODNN7:{}@?region=eu",
        "file://a:{}@b/c.yaml",
    ]
    for uri in uris:
        for work in (resolve, Root, Storage, class_set):
            tells_nothing(lambda written, uri=uri, work=work: error(lambda: work(uri.format(written))), secret, raw)


@given(secret=secrets, raw=st.booleans())
@slow
def test_no_error_tells_an_option(secret: str, raw: bool) -> None:
    assume(is_clear(secret, raw))
    for uri in ("s3://bucket/x.yaml?region=eu&session_token={}", "foo://host/x?secret_key={}&region=eu"):
        for work in (resolve, Root, Storage):
            tells_nothing(lambda written, uri=uri, work=work: error(lambda: work(uri.format(written))), secret, raw)


WORDS = ["secret_key", "pwd", "passwd", "passphrase", "auth", "sig", "sas", "X-Amz-Signature", "what", "v2?secret_key"]
WORDS += ["?access_token", "secret%5Fkey", "secret.key", "secret key", " token", "aws:secret_key", "/run?token", "ключ"]


@given(
    word=st.sampled_from(WORDS) | st.text(characters, min_size=1, max_size=10),
    before=st.sampled_from(["?", "??", "?v2?", "?region=eu&", "?region=eu;", "?region=eu; ", "?region=eu?", "?x=1&"]),
    sign=st.sampled_from(["=", "==", ":", "%3D", ";"]),
    after=st.sampled_from(["", "&region=us", ";region=us"]),
    secret=secrets,
    raw=st.booleans(),
)
@example("a", "?region=eu;", "=", "", "x/y", True)
@example("secret_key", "?v2?", ":", "&region=us", "wJalr/EMI==", True)
@settings(slow, max_examples=60)
def test_no_misspelled_option_tells_a_secret(
    word: str, before: str, sign: str, after: str, secret: str, raw: bool
) -> None:
    # An & as it is separates options: only of those that are known is it part of a secret.
    assume(is_clear(secret, raw) and not (raw and re.search("[&?]", secret)) and not _IS_HARMLESS.fullmatch(word))
    for scheme in ("s3", "foo"):
        uri = f"{scheme}://bucket/a{before}{re.sub('[{}]', '', word)}{sign}{{}}{after}"
        with fresh():  # in a text, a space ends a URI that nobody has met
            assert re.search(r"\s", uri) or ANOTHER not in redacted(f"cannot open '{uri.format(ANOTHER)}'")
        told, expected = (_told(uri.format(each)) for each in (as_written(secret, raw), ANOTHER))
        assert ANOTHER not in "".join(expected)
        assert told[:2] == expected[:2]
        assert told[2] == expected[2] or secret.strip() in expected[2]


def _told(uri: str) -> tuple[str, str, str]:
    """What is shown and stored of a place, and why it is not opened, if so."""
    with fresh():
        refusal = ""
        try:
            resolve(uri)
        except InputError as reason:
            refusal = str(reason)
        return shown(uri), stored(uri), refusal


@given(secret=secrets, raw=st.booleans())
@slow
def test_what_another_library_says_of_a_known_place_is_cleaned(secret: str, raw: bool) -> None:
    assume(len(secret.strip()) >= 4 and is_clear(secret, raw))
    written = as_written(secret, raw)
    place = f"s3://AKIA:{written}@bucket/x?region=eu"
    assert shown(place) == "s3://***@bucket/x?region=eu"
    assert repr(Storage(place)) == "Storage(s3://***@bucket/x?region=eu)"
    if len(secret.strip()) >= 8:  # and words nowhere else
        for form in forms(secret) | {quote(secret, safe="!$&'()*+,;=:@/?~"), ascii(secret)[1:-1], quote(quote(secret))}:
            said = redacted(f"<Key>{form}</Key>, (key: {form!r})")
            assert not any(each.strip() in said for each in forms(secret))
    for form in (place, repr(place), one_line(ValueError(place)), quote(place)):
        assert secret.strip() not in redacted(f"Cannot parse: {form} at 9")


REFUSED = "s3://AKIAIOSFODNN7:{}@bucket/x?nonsense=1"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("run_al", [f"--output_dir={REFUSED}"]),
        ("run_al", ["--preset=tiny", "--data.pool.reader=folder", "--data_root", REFUSED]),
        ("run_al", [f"--seed={REFUSED}"]),
        ("run_al", [f"--config={REFUSED}"]),
        ("run_al", [f"--no_option={REFUSED}"]),
        ("sweep", ["--seeds", REFUSED]),
        ("sweep", [f"--output_dir={REFUSED}"]),
        ("predict", ["a", "b", "c", "--size", REFUSED, "1"]),
        ("predict", ["a", "b", "c", "--device", REFUSED]),
        ("report", [REFUSED]),
        ("annotate", [REFUSED]),
        ("verify", [REFUSED]),
    ],
)
def test_no_job_tells_a_secret(
    name: str, arguments: list[str], job: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    def said(written: str) -> str:
        with suppress(SystemExit):
            assert job(name).main([each.format(written) for each in arguments]) == 2
        return "".join(capsys.readouterr()).replace('"', "'")

    tells_nothing(said, "p@ss /w:rd?#%&+='\"()<>[] ключ/ 密码😀@x", raw=True)


@pytest.mark.parametrize("secret", ODD[:4])
def test_a_configuration_is_read_stored_and_compared_without_secrets(secret: str) -> None:
    uri = f"s3://AKIA:{as_written(secret, False)}@bucket/run?region=eu&token={quote(secret, safe='')}"
    split = SplitConfig(reader="folder", images="*.jpg", labels="*.png", root=uri)
    config = Config(output_dir=uri, data_root=uri)
    config = replace(config, data=replace(config.data, pool=split, known_labels=uri))
    written = config_to_yaml(config)
    again = config_from_yaml(written, "stored")
    assert again.output_dir == again.data.pool.root == "s3://bucket/run?region=eu"
    assert identity(config) == identity(again)


@pytest.mark.parametrize(
    "line", ["output_dir: [s3://AKIA:{}@bucket, {{", "a: b: s3://AKIA:{}@bucket", "seed: s3://AKIA:{}@b"]
)
def test_a_line_of_yaml_is_not_quoted(line: str) -> None:
    secret = "x" * 60 + "Q7zQ7z" + "y" * 200
    assert "Q7zQ7z" not in error(lambda: config_from_yaml(line.format(secret), "mine.yaml"))
    assert "mine.yaml" in error(lambda: config_from_yaml(line.format(secret), "mine.yaml"))


def test_what_ray_tune_pickles_lies_not_beside_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Path] = []

    class Tuner:
        """Stores its callbacks where it is told to, as Ray Tune does."""

        def __init__(self, trainable: object, run_config: trials.RunConfig, **_: object) -> None:
            kept.append(Path(run_config.storage_path) / "tuner.pkl")
            kept[0].write_bytes(pickle.dumps(run_config.callbacks))
            assert ANOTHER.encode() in kept[0].read_bytes()
            assert kept[0].parent.stat().st_mode & 0o077 == 0

        def fit(self) -> SimpleNamespace:
            return SimpleNamespace(errors=[])

    monkeypatch.setattr(trials, "Tuner", Tuner)
    monkeypatch.setattr(trials.tune, "with_parameters", lambda function, **_: function)
    base = Config(output_dir=str(tmp_path), data_root=f"s3://AKIA:{ANOTHER}@bucket")
    space = SearchSpace(curvature=(1.0,), budget=(0.01,), acquisition=("random",), seeds=1)
    with pytest.raises(InputError, match="not done"):
        trials._tune(base, space, trials.SweepConfig(), 1, Storage(str(tmp_path)))
    assert not kept[0].parent.exists()
    assert not any(ANOTHER.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(("kind", "code"), [(InputError, 2), (RuntimeError, 1)])
def test_errors_are_said_without_them(kind: type[Exception], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise kind(f"{URI} is not there")

    assert exit_code(fail) == code
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    assert "s3://***@bucket/run?scheme=http&secret_key=***&region=eu is not there" in said.err
    assert ("Traceback" in said.err) == (code == 1)
