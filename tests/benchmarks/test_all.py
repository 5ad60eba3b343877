"""All benchmarks at once: the table says what was measured, and a failure is named."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from halo_ray.benchmarks import all as every
from halo_ray.benchmarks.all import BENCHMARKS, AllBenchmarks, benchmark_all, table
from halo_ray.benchmarks.data import DataBenchmark
from halo_ray.errors import InputError

Job = Callable[[str], ModuleType]


def test_the_table_and_the_file_say_what_the_benchmarks_said(
    job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    options = ["--json", str(file), "--only", "[model, acquisition]", "--dry_run", "true"]
    assert job("benchmark").main(["all", *options]) == 0
    out, found = capsys.readouterr().out, json.loads(file.read_text())
    assert list(found["lines"]) == list(found["seconds"]) == ["model", "acquisition"]
    for lines in found["lines"].values():
        assert all(line in out for line in lines)
    assert [m["benchmark"] for m in found["measurements"]] == ["model"] * 4 + ["acquisition"] * 3
    for measured in found["measurements"]:
        assert measured["line"] in found["lines"][measured["benchmark"]]
        assert measured["ours"] > 0
        ratio = measured["other"] / measured["ours"]
        assert measured["ratio"] == pytest.approx(ratio, rel=1e-6)  # of a single repetition
    assert out.endswith(table(found) + "\n")
    assert found["machine"]["cores"] >= 1
    assert str(found["machine"]["memory_gib"]) in out
    assert ("GPU: none was at hand" in out) == (found["gpu"] is None)


def test_columns_of_the_table() -> None:
    def measured(what: str, against: str, **more: object) -> dict[str, object]:
        said = {"benchmark": "x", "device": "cpu", "line": "", "what": what, "ours": 0.25, "other": 2.0, "unit": "s"}
        return said | {"ratio": 8.0, "against": against, "memory": None, "other_memory": None, **more}

    machine = {"processor": "abacus", "cores": 2, "memory_gib": 24.0, "system": "none"}
    rows = [
        measured("one", "official procedure", memory=40.4, other_memory=1100.0),
        measured("two", "bare loop", memory=3.0),
        measured("three", "bare loop", device="cuda"),
    ]
    text = table({"machine": machine, "gpu": "a card", "measurements": rows})
    head, columns, _, one, two, empty, gpu, *_, three = text.splitlines()
    assert head == "abacus, 2 cores, 24.0 GiB; none"
    assert columns.split("  ")[-1].strip() == "memory, MiB"
    assert one.split() == ["one", "0.25", "s", "2", "s", "8.00", "40", "of", "1100"]
    assert two.split() == ["two", "0.25", "s", "2", "s", "8.00", "3"]
    assert one.index("2 s") < two.index("2 s")  # another column
    assert (empty, gpu) == ("", "GPU: a card")
    assert three.startswith("three")


def test_every_benchmark_has_settings_for_a_dry_run() -> None:
    assert set(every._SMALLEST) == set(BENCHMARKS)
    for name, (kind, _) in BENCHMARKS.items():
        assert kind(**every._SMALLEST[name]) != kind()


@pytest.mark.parametrize(
    ("code", "why"), [("raise ValueError('no' + chr(10) + 'luck')", "no luck"), ("os._exit(3)", "died")]
)
def test_what_fails_is_named_and_what_was_measured_is_kept(
    code: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A benchmark of our own, in a module that the fresh process finds."""
    (tmp_path / "failing_benchmark.py").write_text(
        "import os\n"
        "from halo_ray.benchmarks.measurement import Measurement\n"
        "def benchmark(settings):\n"
        "    yield Measurement('before', 'before', 1.0, 2.0, 's', 2.0, 'bare loop')\n"
        f"    {code}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    file = tmp_path / "out.json"
    own = importlib.import_module("failing_benchmark").benchmark
    monkeypatch.setitem(BENCHMARKS, "data", (DataBenchmark, own))
    with pytest.raises(InputError, match=f"^benchmark data failed: .*{why}"):
        list(benchmark_all(AllBenchmarks(only=("data",), json=str(file))))
    assert json.loads(file.read_text())["lines"] == {"data": ["before"]}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"json": "/proc/none/out.json"}, "--json /proc/none/out.json cannot be written"),
        ({"only": ("modle",)}, "no benchmark 'modle'.*'model'"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_measured(settings: dict, named: str) -> None:
    with pytest.raises(InputError, match=named):
        list(benchmark_all(AllBenchmarks(**{"only": ("model",), "dry_run": True, **settings})))
