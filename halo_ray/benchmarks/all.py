"""Every benchmark in turn, each in a process of its own, and one table of them."""

from __future__ import annotations

import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from halo_ray.benchmarks.acquisition import AcquisitionBenchmark, benchmark_acquisition
from halo_ray.benchmarks.data import DataBenchmark, benchmark_data
from halo_ray.benchmarks.measurement import Line, Measurement
from halo_ray.benchmarks.model import ModelBenchmark, benchmark_model
from halo_ray.benchmarks.plan import PlanBenchmark, benchmark_plan
from halo_ray.benchmarks.scoring import ScoringBenchmark, benchmark_scoring
from halo_ray.benchmarks.selection import SelectionBenchmark, benchmark_selection
from halo_ray.benchmarks.sweep import SweepBenchmark, benchmark_sweep
from halo_ray.benchmarks.train import TrainBenchmark, benchmark_train
from halo_ray.errors import InputError, one_line
from halo_ray.json_file import write_json_file
from halo_ray.suggest import nearest
from halo_ray.text_table import text_table
from halo_ray.versions import versions

BENCHMARKS: dict[str, tuple[type[Any], Callable[[Any], Iterator[Line]]]] = {
    "model": (ModelBenchmark, benchmark_model),
    "acquisition": (AcquisitionBenchmark, benchmark_acquisition),
    "scoring": (ScoringBenchmark, benchmark_scoring),
    "selection": (SelectionBenchmark, benchmark_selection),
    "data": (DataBenchmark, benchmark_data),
    "train": (TrainBenchmark, benchmark_train),
    "sweep": (SweepBenchmark, benchmark_sweep),
    "plan": (PlanBenchmark, benchmark_plan),
}
"""By name: the settings, and what yields the lines of the report."""

ON_GPU = ("model", "acquisition", "scoring", "train")
"""Those that are measured on a GPU too, where there is one."""

_SMALLEST: dict[str, dict[str, Any]] = {
    "model": {"height": 64, "width": 64, "image_height": 64, "image_width": 64, "repeats": 1,
              "backbones": ["resnet-tiny"]},
    "acquisition": {"height": 64, "width": 96, "repeats": 1, "share": 0.05},
    "scoring": {"images": 4, "height": 64, "width": 64, "backbone": "resnet-tiny", "actors": [1], "repeats": 1},
    "selection": {"candidates": 20_000, "images": 2000, "part": 10_000},
    "data": {"images": 2, "height": 64, "width": 128, "input_height": 32, "input_width": 64, "repeats": 1},
    "train": {"images": 4, "height": 64, "width": 64, "input_height": 64, "input_width": 64, "backbone": "resnet-tiny",
              "steps": 2, "warm_up": 1, "runs": 1, "step_backbones": [], "repeats": 1},
    "sweep": {"curvature": [1.0], "budget": [0.02], "acquisition": ["random"], "pretrain_steps": 5},
    "plan": {"rounds": 1},
}  # fmt: skip


@dataclass(frozen=True)
class AllBenchmarks:
    """Every benchmark in turn, and one table; about 40 minutes on two cores, 20 more with data_root."""

    json: str | None = None
    """File for all figures, with a description of the machine."""
    only: tuple[str, ...] = ()
    """Names of the benchmarks; empty: all."""
    data_root: str = ""
    """Directory of CamVid, for the benchmark plan, which is left out without it."""
    dry_run: bool = False
    """Sizes that tell nothing about speed: to see that all of it runs."""

    def __post_init__(self) -> None:
        for name in self.only:
            if name not in BENCHMARKS:
                raise InputError(f"only: no benchmark {name!r}; {nearest(name, BENCHMARKS)}")


def benchmark_all(settings: AllBenchmarks) -> Iterator[str]:
    """Lines of the report, as they are measured, and the table.

    Raises:
        InputError: a benchmark failed, or the file cannot be written; what was measured before stands there.
    """
    found: dict[str, Any] = {"machine": machine(), "lines": {}, "seconds": {}, "measurements": [], "gpu": None}
    gpu = torch.cuda.is_available()
    names = [name for name in settings.only or BENCHMARKS if name != "plan" or settings.data_root]
    runs = [(name, "cpu") for name in names] + [(name, "cuda") for name in names if gpu and name in ON_GPU]
    if gpu:
        found["gpu"] = torch.cuda.get_device_name()
    _write(settings.json, found)
    for name, device in runs:
        key = name if device == "cpu" else f"{name} on the GPU"
        yield f"== {key}"
        own, start = found["lines"].setdefault(key, []), time.perf_counter()
        for line in _in_process(name, _told(settings, name, device)):
            own.append(str(line))
            if isinstance(line, Measurement):
                found["measurements"].append({"benchmark": name, "device": device, **asdict(line)})
            _write(settings.json, found)
            yield str(line)
        found["seconds"][key] = round(time.perf_counter() - start, 1)
        _write(settings.json, found)
    yield table(found)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "versions": versions(),
    }


def table(found: Mapping[str, Any]) -> str:
    """The measurements that a file of figures holds, and what they were measured on."""
    at = found["machine"]
    parts = [f"{at['processor']}, {at['cores']} cores, {at['memory_gib']} GiB; {at['system']}"]
    on_cpu, on_gpu = ([m for m in found["measurements"] if m["device"] == device] for device in ("cpu", "cuda"))
    parts += [*_lines(on_cpu), "", f"GPU: {found['gpu'] or 'none was at hand: nothing of it is measured'}"]
    if on_gpu:
        parts += _lines(on_gpu)
    return "\n".join(parts)


def _lines(measurements: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [["", "ours", "official procedure", "bare loop", "ratio", "memory, MiB"]]
    for each in measurements:
        other = f"{each['other']:.3g} {each['unit']}"
        sides = (other, "") if each["against"] == "official procedure" else ("", other)
        memory = "" if each["memory"] is None else f"{each['memory']:.0f}"
        if each["other_memory"] is not None:
            memory += f" of {each['other_memory']:.0f}"
        lines.append([each["what"], f"{each['ours']:.3g} {each['unit']}", *sides, f"{each['ratio']:.2f}", memory])
    return text_table(lines)


def _told(settings: AllBenchmarks, name: str, device: str) -> dict[str, Any]:
    """The settings of a benchmark that are not its own defaults."""
    told = dict(_SMALLEST[name]) if settings.dry_run else {}
    if name == "plan":
        told["data_root"] = settings.data_root
    return {**told, "device": device} if device != "cpu" else told


def _in_process(name: str, told: dict[str, Any]) -> Iterator[Line]:
    """The lines of a benchmark that runs alone in a fresh process: threads and memory are as it sets them."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    kind, benchmark = BENCHMARKS[name]
    process = context.Process(target=_measure, args=(benchmark, kind(**told), sender))
    process.start()
    sender.close()
    try:
        while (line := _received(receiver)) is not None:
            if isinstance(line, Exception):
                raise InputError(f"benchmark {name} failed: {one_line(line)}") from line
            yield line
    finally:
        process.terminate()
        process.join()


def _received(receiver: Any) -> Line | Exception | None:
    try:
        line: Line | Exception | None = receiver.recv()
    except EOFError:
        return RuntimeError("its process died")
    return line


def _measure(benchmark: Callable[[Any], Iterator[Line]], settings: Any, sender: Any) -> None:
    try:
        for line in benchmark(settings):
            sender.send(line)
        sender.send(None)
    except Exception as error:  # whatever it is, the parent says it
        sender.send(RuntimeError(one_line(error)))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _write(file: str | None, found: Mapping[str, Any]) -> None:
    if file is not None:
        write_json_file(file, found)
