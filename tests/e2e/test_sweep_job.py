"""What the sweep job says of a wrong command line, before anything is run or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

MISTAKES = {
    "no number": (["--curvature", "flat"], ["--curvature", "flat"]),
    "flat curvature": (["--curvature", "1", "0"], ["model.curvature is 0"]),
    "budget above all": (["--budget", "0.1", "1.5"], ["acquisition.budget is 1.5"]),
    "misspelt function": (["--acquisition", "entropie"], ["'entropy'"]),
    "no seeds": (["--seeds", "0"], ["--seeds is 0"]),
    "unknown scheduler": (["--scheduler", "hyperband"], ["--scheduler", "asha"]),
    "no trial at a time": (["--max_concurrent_trials", "0"], ["--max_concurrent_trials is 0"]),
    "a single seed": (["--seed", "7"], ["--seed ", "--seeds"]),
    "unknown option": (["--seed_count", "3"], ["--seed_count"]),
    "nothing is bought": (["--training.protocol", "source_only"], ["training.protocol source_only"]),
    "geometry without curvature": (
        ["--model.geometry", "euclidean", "--curvature", "1", "2"], ["--curvature", "model.geometry"]
    ),
    "store that cannot be written to": (
        ["--execution.shared_stages", "/proc/shared"], ["execution.shared_stages /proc/shared"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(
    cluster: None,
    mistake: str,
    job: Callable[[str], ModuleType],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options, words = MISTAKES[mistake]
    code = job("sweep").main(["--preset", "tiny", "--output_dir", str(tmp_path / "sweep"), *options])
    said = capsys.readouterr().err
    assert code == 2
    sentences = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1
    assert "Traceback" not in said
    for word in words:
        assert word in sentences[0]
    assert not (tmp_path / "sweep/trials").exists()


def test_a_sweep_lies_beside_the_experiment_of_its_preset(
    job: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without an output_dir of its own it must not get into that experiment's directory."""
    sweep, directories = job("sweep"), []
    monkeypatch.setattr(sweep, "run_sweep", lambda base, space, how: directories.append(base.output_dir) or [])
    assert sweep.main(["--preset", "tiny"]) == 0
    assert sweep.main(["--preset", "tiny", "--output_dir=mine"]) == 0
    assert directories == ["runs/tiny-sweep", "mine"]
    assert "trials in mine" in capsys.readouterr().out
