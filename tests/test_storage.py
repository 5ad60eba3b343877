"""The experiment directory: files appear whole or not at all, stages run once, and damage is told by name."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rewritten import begin_stages

from halo_ray.errors import InputError
from halo_ray.filesystems import resolve
from halo_ray.patience import StorageError
from halo_ray.stages import Stages
from halo_ray.storage import Storage, safe_name


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "a run"), patience=0.1)


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """Writing fails for real once a file of this process holds ``size`` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_written_is_read(storage: Storage, tmp_path: Path) -> None:
    storage.write("deep/er/x.bin", b"\x00new\xff")
    assert storage.read("deep/er/x.bin") == (tmp_path / "a run/deep/er/x.bin").read_bytes() == b"\x00new\xff"
    storage.write("deep/er/x.bin", b"")
    assert storage.read("deep/er/x.bin") == b""


def test_a_write_that_fails_half_way_leaves_the_old_content_and_no_other_name(storage: Storage) -> None:
    storage.write("d/x", b"old")
    for name in ("d/x", "d/y"):
        with full_after(1 << 20), pytest.raises(StorageError, match="large"):
            storage.write(name, bytes(2 << 20))
    assert storage.read("d/x") == b"old"
    assert not storage.exists("d/y")
    assert storage.files("d") == ["d/x"]


def test_exists_files_and_clear(storage: Storage) -> None:
    assert not storage.exists("d")
    assert storage.files("d") == []
    storage.clear("d")
    for name in ("d/b", "d/a", "d/sub/c", "e"):
        storage.write(name, b"")
    assert storage.exists("d")
    assert storage.exists("d/a")
    assert storage.files("d") == ["d/a", "d/b"]
    storage.clear("d")
    assert not storage.exists("d/sub/c")
    assert storage.exists("e")


def test_a_uri_a_path_and_a_relative_path_name_the_same_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for uri in ("köln #1/run", str(tmp_path / "köln #1/run"), (tmp_path / "köln #1/run").as_uri()):
        Storage(uri).write("x", uri.encode())
        assert (tmp_path / "köln #1/run/x").read_bytes() == uri.encode()


def test_a_uri_that_names_no_filesystem_is_named() -> None:
    with pytest.raises(InputError, match="nosuch://bucket/run"):
        resolve("nosuch://bucket/run")


@pytest.mark.parametrize("uri", ["file:///two words/ö", "file:///two%20words/%C3%B6", "/two words/ö"])
def test_spaces_and_any_letters_may_stand_in_a_uri(uri: str) -> None:
    assert resolve(uri)[1] == "/two words/ö"


@pytest.mark.parametrize("path", ["a b/ö", "a%20b/%C3%B6"])
def test_an_object_store_uri_names_bucket_and_key(s3, path: str) -> None:
    assert resolve(s3.uri(path))[1] == "streets/a b/ö"


def test_a_bucket_s_filesystem_is_made_once(s3) -> None:
    """Making one may ask the store where the bucket lies, for every image of a pool."""
    assert resolve(s3.uri("a"))[0] is resolve(s3.uri("b"))[0]
    assert resolve(s3.uri("a"))[0] is not resolve(s3.uri("a", bucket="other"))[0]


@pytest.mark.parametrize("name", ["a/b c", "köln", "%2F", "..", "x" * 300, "東京" * 60, "x" * 299 + "y"])
def test_any_id_has_a_file_name_of_its_own_that_a_filesystem_takes(tmp_path: Path, name: str) -> None:
    others = ["a", "x" * 300, "x" * 299 + "z", "東京" * 61, safe_name(name)]
    assert len(safe_name(name).encode()) <= 200
    assert safe_name(name) not in {safe_name(other) for other in others if other != name}
    (tmp_path / f"{safe_name(name)}.json").touch()
    assert [path.parent for path in tmp_path.iterdir()] == [tmp_path]


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_file_is_created_once_and_whole(tmp_path: Path, where: str, request: pytest.FixtureRequest) -> None:
    uri = str(tmp_path) if where == "local" else request.getfixturevalue("s3").uri("created/once")
    storage = Storage(uri)
    storage.create("a/b", b"x" * (6 << 20))  # more than one part of an upload
    with pytest.raises(FileExistsError):
        storage.create("a/b", b"y")
    assert storage.read("a/b") == b"x" * (6 << 20)
    assert storage.files("a") == ["a/b"]


def test_a_creation_that_fails_leaves_nothing_in_the_way_of_the_next(storage: Storage) -> None:
    with full_after(1 << 20), pytest.raises(StorageError, match="large"):
        storage.create("x", b"a" * (2 << 20))
    assert storage.files("") == []
    storage.create("x", b"b")
    assert storage.read("x") == b"b"


def test_json_comes_back_and_refuses_what_is_not_json(storage: Storage) -> None:
    value = {"a": [1, 0.1, None, "ü"], "b": {"c": True}}
    storage.write_json("x.json", value)
    assert storage.read_json("x.json") == value
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json("x.json", {"miou": float("nan")})
    assert storage.read_json("x.json") == value


@pytest.mark.parametrize("damage", [b"", b'{"a": 1', b"\xff\xfe\x00", b"\x00" * 40])
def test_a_damaged_json_file_is_named(storage: Storage, damage: bytes) -> None:
    storage.write("d/x.json", damage)
    with pytest.raises(InputError, match=r"a run/d/x\.json is damaged"):
        storage.read_json("d/x.json")


def test_check_writable_leaves_nothing_behind(storage: Storage) -> None:
    storage.check_writable()
    assert storage.files("") == []


def test_a_path_under_a_regular_file_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for uri in (tmp_path / "file", tmp_path / "file/run"):
        with pytest.raises(InputError, match=f"output_dir {uri} "):
            Storage(str(uri)).check_writable()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc on this machine")
def test_proc_is_not_writable() -> None:
    with pytest.raises(InputError, match="/proc/halo_ray"):
        Storage("/proc/halo_ray").check_writable()


class Work:
    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.calls.append((args, kwargs))
        if "fail" in kwargs:
            raise RuntimeError("killed")
        return {"checkpoint": "x", "loss": 0.1, "calls": len(self.calls)}


@pytest.fixture
def begun(storage: Storage) -> Storage:
    return begin_stages(storage)


def test_a_stage_runs_once_and_its_result_is_read_back_even_by_another_process(begun: Storage) -> None:
    work = Work()
    first = Stages(begun).run("rounds/001/train", work, 1, key="a")
    again = Stages(Storage(begun.uri)).run("rounds/001/train", work, 2, key="b")
    assert first == again == {"checkpoint": "x", "loss": 0.1, "calls": 1}
    assert work.calls == [((1,), {"key": "a"})]
    assert Stages(begun).done("rounds/001/train")
    assert not Stages(begun).done("rounds/001")
    assert 0 <= Stages(begun).seconds("rounds/001/train") < 10


@pytest.mark.parametrize("result", [None, 0, [], ""])
def test_a_stage_without_a_result_is_done_too(begun: Storage, result: object) -> None:
    calls = []
    for _ in range(2):
        assert Stages(begun).run("x", lambda: (calls.append(1), result)[1]) == result
    assert calls == [1]


def test_a_stage_that_raises_leaves_no_marker_and_runs_again(begun: Storage) -> None:
    work = Work()
    with pytest.raises(RuntimeError, match="killed"):
        Stages(begun).run("x", work, fail=True)
    assert not Stages(begun).done("x")
    assert Stages(begun).run("x", work)["calls"] == 2


def test_a_marker_that_cannot_be_written_whole_is_no_marker(begun: Storage) -> None:
    with full_after(1 << 20), pytest.raises(StorageError, match="large"):
        Stages(begun).run("x", lambda: "a" * (2 << 20))
    assert not Stages(begun).done("x")


def test_a_damaged_marker_is_named_and_the_stage_not_run(begun: Storage) -> None:
    work = Work()
    Stages(begun).run("x", work)
    assert json.loads(begun.read("stages/x.json"))["result"]["calls"] == 1
    begun.write("stages/x.json", b"{")
    with pytest.raises(InputError, match=r"stages/x\.json"):
        Stages(begun).run("x", work)
    assert len(work.calls) == 1
