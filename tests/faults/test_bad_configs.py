"""Configurations, class sets and URIs that cannot be meant: one sentence that names the key or the file, at once.

Cases: 43 documents, each as a file of a user and as that of an experiment (86), 7 files that are none, 42 options, 16
URIs in three places (48), 8 credentials in five (40), 78 class sets, 7 that are no file; random ones (Hypothesis,
always the same): 120 values of keys, 60 damaged files, 100 damaged class sets: 588.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pytest
import yaml
from bad_input import DAMAGES, MANY_CASES, SECONDS, assert_one_sentence, damaged, examples, refused
from hypothesis import given
from hypothesis import strategies as st

from halo_ray.config import Config, config_from_yaml, config_to_yaml, identity, parse_config
from halo_ray.data.classes import class_set
from halo_ray.data.listing import Root
from halo_ray.errors import InputError
from halo_ray.secret import redacted
from halo_ray.storage import Storage

pytestmark = pytest.mark.timeout(SECONDS)

PRESETS = Path(__file__).parents[2] / "jobs" / "presets"

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
MAPS = "a0: &a0 {x: 1, y: 2}\n" + "".join(
    f"a{n}: &a{n} {{{', '.join(f'k{m}: *a{n - 1}' for m in range(9))}}}\n" for n in range(1, 9)
)

DOCUMENTS: dict[str, str | bytes] = {
    "billion laughs": LAUGHS,
    "billion laughs for a seed": LAUGHS.replace("a8: ", "seed: "),
    "billion mappings": MAPS,
    "billion mappings for a section": MAPS.replace("a8: ", "data: "),
    "list in itself": "seed: &a [*a]",
    "mapping in itself": "data: &a {source: *a}",
    "open lists": "seed: " + "[" * 1500,
    "closed lists": "seed: " + "[" * 1500 + "]" * 1500,
    "open mappings": "{a: " * 3000,
    "code": "seed: !!python/object/apply:os.mkdir ['PAYLOAD']",
    "code in a new object": "seed: !!python/object/new:os.mkdir ['PAYLOAD']",
    "name of code": "seed: !!python/name:os.system",
    "module": "seed: !!python/module:os",
    "unknown tag": "seed: !mine 3",
    "key twice": "seed: 1\nseed: 2\n",
    "key twice below": "data: {height: 64, height: 128}",
    "section twice": "data: {height: 64}\nmodel: {embedding: 8}\ndata: {width: 64}\n",
    "Latin 1": "output_dir: caf\u00e9".encode("latin1"),
    "UTF-16": "seed: 3\n".encode("utf-16"),
    "null character": "output_dir: a\0b",
    "escaped null character": 'output_dir: "a\\0b"',
    "line break in a value": 'output_dir: "a\\nb"',
    "escape in a value": 'data_root: "\\e[31m"',
    "half a character": 'output_dir: "\\uD800"',
    "line break in a key": '"se\\ned": 1',
    "list as a key": "? [a]\n: 1",
    "number as a key": "1: 2",
    "null as a key": "~: 2",
    "date without a month": "seed: 2020-99-99",
    "empty integer": "seed: !!int ''",
    "no float": "seed: !!float x",
    "no truth": "seed: !!bool maybe",
    "no date": "seed: !!timestamp yesterday",
    "no base64": "seed: !!binary x",
    "number of 5000 digits": "seed: " + "9" * 5000,
    "number of 5000 hexadecimal digits": "seed: 0x" + "f" * 5000,
    "two documents": "seed: 1\n---\nseed: 2\n",
    "merge of a number": "<<: 3",
    "set as a section": "data: !!set {a, b}",
    "list": "- seed\n",
    "word": "seed",
    "tab": "\tseed: 1",
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
}


@pytest.mark.parametrize("what", DOCUMENTS)
def test_a_file_that_cannot_be_meant(tmp_path: Path, what: str) -> None:
    text, payload = DOCUMENTS[what], tmp_path / "payload"
    data = text if isinstance(text, bytes) else text.replace("PAYLOAD", str(payload)).encode()
    file = tmp_path / "mine.yaml"
    file.write_bytes(data)
    said = refused(lambda: parse_config(["--config", str(file)], PRESETS))
    assert str(file) in said or any(word in said for word in ("seed", "output_dir", "data_root"))
    assert len(said) < 2000
    refused(lambda: config_from_yaml(data, "the stored one"), "the stored one")
    assert not payload.exists()


@pytest.mark.parametrize("empty", ["", "\n\n", "# nothing\n", "~", "{}", "---\n"])
def test_a_file_that_says_nothing_changes_nothing(tmp_path: Path, empty: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(empty)
    assert parse_config(["--config", str(file), "--seed=3"], PRESETS) == Config(seed=3)


def test_anchors_and_aliases_that_stay_small_are_understood() -> None:
    text = "data:\n  pool: &night {reader: folder, images: '*.png', labels: '*.gif'}\n"
    text += "  validation: {<<: *night, list_file: v.txt}\n"
    data = config_from_yaml(text, "mine").data
    assert data.validation.images == data.pool.images == "*.png"
    assert (data.validation.list_file, data.pool.list_file) == ("v.txt", None)


@pytest.mark.parametrize("name", ["directory", "pipe", "nowhere", "/dev/null", "/dev/zero", "a\0b", "x" * 5000])
def test_a_config_that_is_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    said = refused(lambda: parse_config([f"--config={tmp_path / name}"], PRESETS))
    assert "--config" in said


# Options, and what the sentence must hold.
OPTIONS: dict[str, str] = {
    "--seed=": "seed", "--seed=many": "seed", "--seed=1e400": "seed", "--seed=-1": "seed", "--seed=null": "seed",
    "--seed=.nan": "seed", "--seed=[": "seed", "--seed=true": "seed", "--seed=1.5": "seed", "--seed=\udcff": "seed",
    "--seed=" + "9" * 400: "seed", "--seed=" + "9" * 5000: "seed", "--seed=!!python/name:os.system": "seed",
    "--output_dir=": "output_dir", "--output_dir=a\0b": "output_dir", "--output_dir=\udcff": "output_dir",
    "--output_dir=a\nb": "output_dir", "--output_dir": "output_dir", "--data_root=\x1b[2J": "data_root",
    "--preset=../../x": "../../x", "--preset=a\0b": "preset", "--preset": "--preset", "--config": "--config",
    "--model.pixel_std=[.nan, 1, 1]": "model.pixel_std", "--model.pixel_std=[0, 1, 1]": "model.pixel_std",
    "--model.pixel_mean=[.inf, 1, 1]": "model.pixel_mean", "--model.pixel_mean=[1]": "model.pixel_mean",
    "--model.embedding=99999999": "model.embedding", "--model.decoder_width=800000000": "model.decoder_width",
    "--model.geometry=null": "model.geometry", "--data.height=9999999": "data.height",
    "--data.pool.scenes=99999999999": "scenes", "--data.pool.width=99999999": "width",
    "--data.pool.list_file=a\0b": "data.pool.list_file", "--data.on_bad_record=null": "data.on_bad_record",
    "--data.on_bad_record=ignore": "data.on_bad_record", "--acquisition.rounds=99999999999": "acquisition.rounds",
    "--acquisition.sequence=(": "acquisition.sequence", "--data.pool={": "data.pool", "--model=3": "model",
    "--execution.num_workers=[1, 2, 3]": "execution.num_workers", "--=3": "--=3",
}  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_that_cannot_be_meant(option: str) -> None:
    assert len(refused(lambda: parse_config([option], PRESETS), OPTIONS[option])) < 2000


def _leaves(section: type[Any], prefix: str = "") -> list[str]:
    hints = get_type_hints(section)
    return [
        key
        for item in fields(section)
        for key in (
            _leaves(hints[item.name], f"{prefix}{item.name}.")
            if is_dataclass(hints[item.name])
            else [f"{prefix}{item.name}"]
        )
    ]


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**31, -(2**31), 2**53 + 1, -(2**64), 10**30]),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.none()), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
    st.sampled_from([[[[]]], {"a": {"b": {}}}, "x" * 10_000, "../..", "~", "\u202e", "s3://k:s@b/x", "NaN"]),
)


@MANY_CASES
@examples(120)
@given(key=st.sampled_from(_leaves(Config)), value=VALUES)
def test_any_value_of_any_key_is_taken_or_refused_by_name(key: str, value: Any) -> None:
    tree: Any = value
    for part in reversed(key.split(".")):
        tree = {part: tree}
    try:
        config = config_from_yaml(yaml.safe_dump(tree), "mine")
    except InputError as error:
        said = str(error)
    else:
        said = None
    if said is not None:
        assert_one_sentence(said, "mine")
        assert key.rpartition(".")[2] in said or "is no YAML" in said
        assert len(said) < 2000
        return
    flat: Any = config
    for part in key.split("."):
        flat = getattr(flat, part)
    found = list(flat) if isinstance(flat, tuple) else flat
    if isinstance(value, str):  # a text such as ~ or 3 is null or a number where the key may be one
        assert found == value or not isinstance(found, str)
    else:
        assert found in (value, float(value) if type(value) is int else value)
    assert config_from_yaml(redacted(config_to_yaml(config)), "dump") is not None


@MANY_CASES
@examples(60)
@given(damage=st.sampled_from(DAMAGES), seed=st.integers(0, 10**6))
def test_a_damaged_file_is_refused_or_means_what_it_says(damage: str, seed: int) -> None:
    whole = (PRESETS / "tiny.yaml").read_bytes()
    data = damaged(whole, damage, seed)
    try:
        config = config_from_yaml(data, "tiny.yaml")
    except InputError as error:
        assert_one_sentence(str(error), "tiny.yaml")
        return
    # What PyYAML alone finds in it is what the configuration says: nothing was guessed.
    flat = identity(config) | {"output_dir": config.output_dir}
    for section, values in (yaml.safe_load(data) or {}).items():
        if not isinstance(values, dict) and section in flat:
            assert flat[section] == values


SCHEMES = [
    "foo://x/y", "http://example.invalid/x", "ftp://u:hidden9@h/x", "abfs://box@account.dfs.core.windows.net/x",
    "abfss://x", "az://x", "mock://x", "file://elsewhere/x", "s3://", "s3:///x", "gs://", "gs://@", "://x", "s3://[",
    "hdfs://", "a\0b",
]  # fmt: skip


@pytest.mark.parametrize("uri", SCHEMES)
def test_a_uri_that_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.chdir(tmp_path)
    refused(lambda: Root(uri))
    refused(lambda: Storage(uri).check_writable())
    refused(lambda: class_set(f"{uri}/c.yaml"), "c.yaml")


CREDENTIALS = [
    "foo://KEY:hidden9@host/x", "foo://KEY:hid/den9@host/x", "foo://KEY:hid%2Fden9@host/x", "foo://hidden9@host/x",
    "foo://bucket/x?secret_key=hidden9", "foo://bucket/x?a=1&token=hidden9&b=2", "foo://b?X-Amz-Signature=hidden9",
    "foo://KEY:hidden9=+@host/x?password=hidden9",
]  # fmt: skip


@pytest.mark.parametrize("uri", CREDENTIALS)
def test_credentials_are_not_shown(
    uri: str, job: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        [f"--output_dir={uri}"],
        [f"--data_root={uri}", "--preset=tiny", "--data.pool.reader=folder"],
        [f"--config={uri}"],
        [f"--seed={uri}"],
        [f"--acquisition.function={uri}"],
    ):
        assert job("run_al").main([*arguments, "--execution.max_actors=0"]) == 2
        shown = capsys.readouterr()
        assert_one_sentence(shown.err.removesuffix("\n"), "error: ")
        for part in ("hidden9", "den9", "hid/", "hid%2F"):
            assert part not in shown.out + shown.err


CLASS_SETS: dict[str, str | bytes] = {
    **{name: text for name, text in DOCUMENTS.items() if name not in ("escaped null character",)},
    "classes twice": "classes: [a, b]\nclasses: [a, c]",
    "one class": "classes: [a]",
    "same class": "classes: [a, a]",
    "classes that are numbers": "classes: [1, 2]",
    "nested classes": "classes: [[a], [b]]",
    "laughing classes": LAUGHS.replace("a8: ", "classes: "),
    "laughs beside classes": LAUGHS + "classes: [a, b]\n",
    "classes in themselves": "classes: &a [*a, *a]",
    "ids that are words": "classes: [a, b]\nids: [x, y]",
    "ids too many": "classes: [a, b]\nids: [0, 1, 2]",
    "ids out of range": "classes: [a, b]\nids: [0, 256]",
    "ids that are the same": "classes: [a, b]\nids: [0, [1, 0]]",
    "ids of nothing": "classes: [a, b]\nids: [0, []]",
    "ids nested": "classes: [a, b]\nids: [0, [[1]]]",
    "ids that are truths": "classes: [a, b]\nids: [true, false]",
    "ids that are fractions": "classes: [a, b]\nids: [0, 1.5]",
    "ids that are mappings": "classes: [a, b]\nids: [{a: 1}, 0]",
    "ids of 400 digits": "classes: [a, b]\nids: [0, " + "9" * 400 + "]",
    "ignored class": "classes: [a, b]\nignore_ids: [1]",
    "ignored word": "classes: [a, b]\nignore_ids: [x]",
    "ignored mapping": "classes: [a, b]\nignore_ids: {a: 1}",
    "300 classes": f"classes: {[f'c{n}' for n in range(300)]}",
    "colours of two": "classes: [a, b]\ncolors: [[0, 0], [1, 1]]",
    "colours out of range": "classes: [a, b]\ncolors: [[0, 0, 256], [1, 1, 1]]",
    "colours that are words": "classes: [a, b]\ncolors: [red, green]",
    "colours that are numbers": "classes: [a, b]\ncolors: [1, 2]",
    "unknown in miou_star": "classes: [a, b]\nmiou_star: [c]",
    "number in miou_star": "classes: [a, b]\nmiou_star: [1]",
    "list in miou_star": "classes: [a, b]\nmiou_star: [[a]]",
    "null in miou_star": "classes: [a, b]\nmiou_star: [~]",
    "unknown key": "classes: [a, b]\ncolours: []",
    "number as key": "classes: [a, b]\n1: []",
    "name that is a list": "classes: [a, b]\nname: [x]",
    "line break in a name": 'classes: [a, b]\nname: "x\\ny"',
    "line break in a class": 'classes: [a, "b\\nc"]',
    "classes null": "classes: ~",
}


@pytest.mark.parametrize("what", CLASS_SETS)
def test_a_class_set_that_cannot_be_meant(tmp_path: Path, what: str) -> None:
    text, file, payload = CLASS_SETS[what], tmp_path / "classes.yaml", tmp_path / "payload"
    file.write_bytes(text if isinstance(text, bytes) else text.replace("PAYLOAD", str(payload)).encode())
    assert len(refused(lambda: class_set(str(file)), "class")) < 2000
    assert not payload.exists()


@pytest.mark.parametrize("what", ["directory", "pipe", "device", "loop", "dangling", "x" * 300, ".."])
def test_a_class_set_that_is_no_file(tmp_path: Path, what: str) -> None:
    (tmp_path / "directory.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, target in (("device", "/dev/zero"), ("loop", "loop.yaml"), ("dangling", "nowhere")):
        (tmp_path / f"{name}.yaml").symlink_to(target)
    refused(lambda: class_set(f"{tmp_path}/{what}.yaml"), "class set file", what)


@MANY_CASES
@examples(100)
@given(damage=st.sampled_from(DAMAGES), seed=st.integers(0, 10**6))
def test_a_damaged_class_set_is_refused_or_means_what_it_says(
    tmp_path_factory: pytest.TempPathFactory, damage: str, seed: int
) -> None:
    text = b"name: mine\nclasses: [road, sky, person]\nids: [7, [8, 9], 24]\nignore_ids: [0, 255]\ncolors: [[1, 2, 3], "
    text += b"[4, 5, 6], [7, 8, 9]]\nmiou_star: [road, sky]\n"
    file = tmp_path_factory.mktemp("classes") / "classes.yaml"
    file.write_bytes(damaged(text, damage, seed))
    try:
        found = class_set(str(file))
    except InputError as error:
        assert_one_sentence(str(error), "class set")
        return
    said = yaml.safe_load(file.read_bytes())
    assert list(found.classes) == said["classes"]
    assert [list(entry) if isinstance(entry, tuple) else entry for entry in found.ids] == said.get("ids", [])
    assert list(found.ignore_ids) == said.get("ignore_ids", [255])
