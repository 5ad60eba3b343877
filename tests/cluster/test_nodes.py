"""A cluster of unlike nodes: what is computed where, and files that one of them does not see."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_head import Head, ray_head, ray_node

DECODE = """
import json, pyarrow as pa, ray
from halo_ray.execution import ExecutionConfig
from halo_ray.pipeline import arrow_batches, stream
from halo_ray.runtime import ray_session

def where(batch):
    return pa.table({"node": [ray.get_runtime_context().get_node_id()] * batch.num_rows})

with ray_session(ExecutionConfig(device="cpu")):
    nodes = {node["NodeID"]: node["Resources"].get("GPU", 0) for node in ray.nodes()}
    with arrow_batches(stream(pa.table({"row": range(6)}), 1, where)) as batches:
        used = [node for batch in batches for node in batch["node"].to_pylist()]
print(json.dumps([nodes[node] for node in used]))
"""


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="module")
def head(hidden: Path) -> Iterator[Head]:
    """A head that computes nothing, a node with CPUs, and one that says it has a GPU and does not see a folder."""
    if os.geteuid() or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("hiding a folder from a node needs root and mount namespaces")
    with (
        ray_head("--num-cpus=0") as running,
        ray_node(running, "--num-cpus=6"),
        ray_node(running, "--num-cpus=2", "--num-gpus=1", hidden=hidden),
    ):
        yield running


def test_images_are_decoded_where_no_gpu_waits(head: Head) -> None:
    ended = head.python("-c", DECODE)
    assert ended.returncode == 0, ended.stderr
    gpus = json.loads(ended.stdout.splitlines()[-1])
    assert gpus == [0] * 6


def test_storage_that_a_node_does_not_see_is_refused_before_any_work(head: Head, hidden: Path) -> None:
    output_dir = hidden / "experiment"
    options = ["--preset=tiny", f"--output_dir={output_dir}", "--execution.device=cpu"]
    ended = head.python("jobs/run_al.py", *options)
    assert ended.returncode == 2, ended.stderr
    assert f"error: output_dir {output_dir} is not seen by 1 of 2 nodes" in ended.stderr
    assert list(output_dir.iterdir()) == []


def test_images_that_a_node_does_not_see_are_not_taken_for_bad_ones(
    head: Head, hidden: Path, dataset: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(dataset, hidden / "data"))
    options = ["--preset=tiny", f"--output_dir={tmp_path}", f"--data_root={root}", "--data.on_bad_record=skip"]
    for split, folder in {"source": "day", "pool": "night", "validation": "check"}.items():
        options += [f"--data.{split}.reader=folder", f"--data.{split}.images={folder}/images/*.jpg"]
        options += [f"--data.{split}.labels={folder}/labels/*.png"]
    ended = head.python("jobs/run_al.py", *options, "--execution.device=cpu")
    assert ended.returncode == 2, ended.stderr
    assert f"error: {root}/day/images/0.jpg is not seen by 1 of 2 nodes" in ended.stderr
    assert list(tmp_path.iterdir()) == []
