"""What --json names is written whole, and takes the place of nothing but an earlier one."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from halo_ray.benchmarks.all import AllBenchmarks, benchmark_all
from halo_ray.errors import InputError
from halo_ray.json_file import check_replaceable, write_json_file

NOW: dict[str, Any] = {"found": [2], "name": "ö"}
FOREIGN = [
    b"",
    b"found: 1\nname: x\n",
    b"[]",
    b'{"found": 1}',
    b'{"found": 1, "name": "", "more": 2}',
    b"\xff\0",
    b"null",
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "found.json"


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def test_a_free_name_and_an_earlier_file_are_written_whole(file: Path, tmp_path: Path) -> None:
    write_json_file(str(file), {"found": [1], "name": "x"})
    (tmp_path / "copy").hardlink_to(file)
    write_json_file(str(file), NOW)
    assert read(file) == NOW
    assert read(tmp_path / "copy") == {"found": [1], "name": "x"}  # it was replaced, not written over
    write_json_file(str(tmp_path / "new/deep.json"), NOW)
    assert read(tmp_path / "new/deep.json") == NOW


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_of_somebody_else_is_refused(file: Path, tmp_path: Path, content: bytes, linked: bool) -> None:
    held = tmp_path / "mine" if linked else file
    held.write_bytes(content)
    if linked:
        file.symlink_to(held)
    with pytest.raises(InputError, match=str(file)):
        check_replaceable(str(file), NOW)
    with pytest.raises(InputError, match=str(file)):
        write_json_file(str(file), NOW)
    assert held.read_bytes() == content
    assert file.is_symlink() == linked


def test_a_link_to_an_earlier_file_stays_and_one_to_nothing_is_refused(file: Path, tmp_path: Path) -> None:
    file.symlink_to(tmp_path / "far.json")
    with pytest.raises(InputError, match=str(file)):
        write_json_file(str(file), NOW)
    write_json_file(str(tmp_path / "far.json"), {"found": [1], "name": "x"})
    write_json_file(str(file), NOW)
    assert file.is_symlink()
    assert read(tmp_path / "far.json") == NOW


@pytest.mark.parametrize("name", ["/dev/null", "/dev/full", ".", "/proc/none/x.json"])
def test_a_device_is_written_to_and_what_cannot_be_written_is_named(name: str, tmp_path: Path) -> None:
    if name == "/dev/null":
        write_json_file(name, NOW)
        assert Path(name).is_char_device()
    else:
        with pytest.raises(InputError, match=f"--json {name} "):
            write_json_file(name, NOW)


def test_the_inspection_refuses_a_configuration_before_anything_is_read(job: Any, tmp_path: Path) -> None:
    inspection: ModuleType = job("inspect_data")
    config = tmp_path / "mine.yaml"
    config.write_text(f"output_dir: {tmp_path}/run\n")
    before = config.read_bytes()
    with pytest.raises(InputError, match=str(config)):
        inspection.inspect([f"--config={config}", f"--json={config}"])
    assert config.read_bytes() == before


def test_the_benchmarks_refuse_a_file_of_somebody_else_before_anything_is_measured(file: Path) -> None:
    file.write_text("seed: 1\n")
    with pytest.raises(InputError, match=str(file)):
        next(benchmark_all(AllBenchmarks(json=str(file), only=("model",), dry_run=True)))
    assert file.read_text() == "seed: 1\n"
