"""A whole experiment in a bucket whose server refuses a tenth of all requests, loses answers, and dies twice.

The ledger is among what it created and never said so.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import pytest

from faults.flaky_s3 import LOST, REFUSED, FlakyStore, flaky_store
from halo_ray.annotations.ledger import Ledger
from halo_ray.config import Config, config_to_yaml

ROOT = Path(__file__).parents[2]

DIES_AFTER = "stages/rounds/000/record.json", "stages/rounds/001/score.json"
"""Before the pool is scored, when images and candidates are on their way, and before the purchase."""

AWAY_SECONDS = 10
"""The S3 clients of pyarrow and obstore give up after 6 and 3."""

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "AKIA5OFENVIRONMENT", "AWS_SECRET_ACCESS_KEY": "secret+of/the+environment"}
"""With which the images are read."""

IN_URI = "AKIA5OFTHEURI", "secret+of/the+uri"
"""With which the experiment is written."""

RUN = "runs/dusk"

pytestmark = pytest.mark.faults


@dataclass(frozen=True)
class Ended:
    """What there was when the driver had ended."""

    files: dict[str, bytes]
    """Of the experiment, by name."""
    said: str
    """On stdout and stderr."""
    code: int
    requests: list[tuple[str, str]]
    """The fate of each, and its method and path."""
    starts: int
    """Of the server."""


@pytest.fixture(scope="module")
def ended(experiment: Config, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    """The experiment again, by the same settings, in the bucket."""
    directory = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as environment:
        for key, value in ENVIRONMENT.items():
            environment.setenv(key, value)
        with flaky_store(directory / "requests") as flaky:
            flaky.behind.upload(dataset, "images")
            classes = flaky.store.uri("images/classes.yaml")
            config = replace(experiment, data_root=flaky.store.uri("images"))
            config = replace(config, data=replace(config.data, class_set=classes))
            said, code = run(config, directory, flaky)
            yield Ended(files(flaky), said, code, flaky.requests(), flaky.starts)


def run(config: Config, directory: Path, flaky: FlakyStore) -> tuple[str, int]:
    """What the driver's process says and its exit code; meanwhile the server dies and comes back."""
    file, output = directory / "config.yaml", directory / "output"
    file.write_text(config_to_yaml(config))
    user, password = (quote(part, safe="") for part in IN_URI)
    output_dir = flaky.store.uri(RUN).replace("://", f"://{user}:{password}@")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with (
        tempfile.TemporaryDirectory(prefix="hr", dir="/tmp", ignore_cleanup_errors=True) as short,
        output.open("wb") as said,
    ):
        driver = subprocess.Popen(
            [sys.executable, "jobs/run_al.py", f"--config={file}", f"--output_dir={output_dir}"],
            cwd=ROOT,
            env={**environment, "RAY_TMPDIR": short},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            for marker in DIES_AFTER:
                wait_until_there(flaky, f"{RUN}/{marker}", driver, output)
                flaky.kill()
                time.sleep(AWAY_SECONDS)
                flaky.start()
            driver.wait(timeout=300)
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)
                driver.wait()
    return output.read_text(), driver.returncode


def wait_until_there(flaky: FlakyStore, key: str, driver: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + 300
    while not flaky.behind.keys(key):
        assert driver.poll() is None, output.read_text()
        assert time.monotonic() < deadline, f"no {key} in 300 s; {output.read_text()}"
        time.sleep(0.3)


def files(flaky: FlakyStore) -> dict[str, bytes]:
    client, store = flaky.behind.client(), flaky.behind
    return {
        key[len(RUN) + 1 :]: client.get_object(Bucket=store.bucket, Key=key)["Body"].read()
        for key in store.keys(f"{RUN}/")
        if not key.endswith("/")
    }


def test_the_experiment_ends_as_an_undisturbed_one(experiment: Config, ended: Ended) -> None:
    assert ended.code == 0, ended.said
    here = Path(experiment.output_dir)
    compared = [
        str(path.relative_to(here))
        for pattern in (
            "rounds/*/annotations/*",
            "rounds/*/selection.json",
            "rounds/*/compared/*",
            "rounds/*/maps/*",
            "rounds/*/checkpoint/model.safetensors",
        )
        for path in here.glob(pattern)
    ]
    kinds = {name.rpartition("/")[2] for name in compared}
    assert {"ledger.parquet", "ledger.parquet.sha256", "selection.json", "model.safetensors"} <= kinds
    for name in compared:
        assert ended.files[name] == (here / name).read_bytes(), name
    for folder in ("annotations", "compared", "maps"):  # nothing that the other does not have
        assert {name for name in ended.files if f"/{folder}/" in name} == {n for n in compared if f"/{folder}/" in n}
    there, own = (records(data) for data in (ended.files["metrics.jsonl"], (here / "metrics.jsonl").read_bytes()))
    assert there == own
    assert len(own) == 3


def records(metrics: bytes) -> list[dict]:
    """Without their times."""
    return [
        {key: value for key, value in json.loads(line).items() if key != "seconds"} for line in metrics.splitlines()
    ]


def test_the_server_was_as_bad_as_it_was_meant_to_be(ended: Ended) -> None:
    assert ended.starts == 1 + len(DIES_AFTER)
    fates = Counter(fate for fate, _ in ended.requests)
    assert fates.total() > 500
    assert fates[REFUSED] > 0.05 * fates.total()
    for number in (1, 2):
        assert (LOST, f"PUT /streets/{RUN}/{Ledger.file(number)}") in ended.requests


def test_no_credential_is_said_or_stored(ended: Ended) -> None:
    for word in (*ENVIRONMENT.values(), *IN_URI):
        for secret in {word, quote(word, safe="")}:
            assert secret not in ended.said
            assert not [name for name, data in ended.files.items() if secret.encode() in data]
    assert {"config.yaml", "stages/rounds/001/annotate.json"} <= set(ended.files)
