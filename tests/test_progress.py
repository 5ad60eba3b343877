import io
import pickle
import re
import time

import pytest

from halo_ray import progress as module
from halo_ray.progress import progress, step_board


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> str:
    """What a stage of 40 images says that is half done for a while."""
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setattr(module, "LINE_SECONDS", 0.05)
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    with progress("round 1 score", 40, "image", lambda: 20):
        time.sleep(0.3)
    return stream.getvalue()


def test_lines_with_rate_and_time_left_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, io.StringIO()).splitlines()
    assert len(lines) >= 2
    for line in lines[:-1]:
        assert line.startswith("round 1 score: ")
        assert re.search(r"50% 20/40 \[00:00<00:00, +[\d.]+image/s\]", line), line
    assert "100% 40/40" in lines[-1]


def test_one_line_is_rewritten_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal())
    assert text.count("\n") == 1
    assert text.count("\r") >= 2
    assert text.endswith("\n")


def test_a_stage_that_fails_is_not_shown_as_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with pytest.raises(ValueError, match="broken"), progress("x", 4, "step", lambda: 1):
        raise ValueError("broken")
    assert "4/4" not in stream.getvalue()


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("shared", [False, True])
def test_the_slowest_process_says_how_far_training_has_come(shared: bool) -> None:
    with step_board(shared=shared) as board:
        elsewhere = pickle.loads(pickle.dumps(board)) if shared else board
        assert board.least() == 0
        elsewhere.set(0, 7, 2)
        elsewhere.set(1, 5, 2)
        assert board.least() == 5
        elsewhere.set(0, 9, 1)  # there are fewer of them now
        assert board.least() == 9
