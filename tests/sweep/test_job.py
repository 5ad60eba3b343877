"""The sweep's command line: where a sweep lies that was not told where to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.parametrize(
    ("output_dir", "expected"),
    [
        ("runs/demo", "runs/demo-sweep"),
        ("runs/demo/", "runs/demo-sweep"),
        ("/", "/sweep"),
        ("s3://bucket?region=eu", "s3://bucket/sweep?region=eu"),
        ("s3://bucket/?region=eu", "s3://bucket/sweep?region=eu"),
        ("s3://bucket//?region=eu", "s3://bucket/sweep?region=eu"),
        ("s3://bucket/run/?region=eu", "s3://bucket/run-sweep?region=eu"),
        ("gs://anonymous@bucket", "gs://anonymous@bucket/sweep"),
        ("s3://KEY:se/cret@bucket?region=eu", "s3://KEY:se/cret@bucket/sweep?region=eu"),
        ("s3://KEY:se/cret@bucket/run/?region=eu", "s3://KEY:se/cret@bucket/run-sweep?region=eu"),
    ],
)
def test_a_sweep_lies_beside_the_experiment_in_the_same_bucket(
    output_dir: str,
    expected: str,
    job: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.yaml").write_text(f"output_dir: {output_dir}")
    sweep = job("sweep")
    asked: list[str] = []
    monkeypatch.setattr(sweep, "run_sweep", lambda base, *_: asked.append(base.output_dir))
    monkeypatch.setattr(sweep, "table", lambda *_: "")
    assert sweep.main(["--preset=tiny", f"--config={tmp_path}/mine.yaml"]) == 0
    assert asked == [expected]
