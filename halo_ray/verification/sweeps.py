"""Verify a sweep or study: its own files, what its trials share, and every trial as an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from halo_ray.atomic import unfinished_owner
from halo_ray.errors import InputError
from halo_ray.features import STAGE
from halo_ray.patience import StorageError
from halo_ray.results import has_metrics, read_metrics
from halo_ray.root import ROOT, read_root
from halo_ray.seals import broken
from halo_ray.stage_order import report_stage
from halo_ray.stages import Stages, marker_file
from halo_ray.storage import WRITE_TEST, Storage
from halo_ray.stored_config import CONFIG, PLAN, unsigned_config
from halo_ray.sweep.directory import BASE, ENDED, RESULTS, SWEEP, Ended, read_ended, read_sweep, sweep_id
from halo_ray.sweep.results import Last, cells_of, repeated
from halo_ray.sweep.space import SHARED, TRIALS, Point, SearchSpace, as_texts
from halo_ray.sweep.status import FINISHED, OPEN, STOPPED, STOPPED_TRIALS, read_stopped, stopped_file
from halo_ray.sweep.store import broken_store
from halo_ray.sweep.study import Case
from halo_ray.sweep.study_results import TEXT, text_of
from halo_ray.sweep.study_runs import begun_identity, read_results, run_key, run_of, settings_of, wanted_keys
from halo_ray.verification.features import elsewhere
from halo_ray.verification.findings import Findings
from halo_ray.verification.leftovers import check_lock
from halo_ray.verification.reader import RESTORE, Reader
from halo_ray.verification.verify import verify_experiment

AGAIN = "run the sweep again, which writes it anew"


def verify_directory(uri: str) -> Findings:
    """Checks the experiment, sweep or study in a directory or URI.

    Raises:
        InputError: it holds none, or its storage cannot be read.
    """
    storage = Storage(uri)
    try:
        sweeps = read_root(storage) != "experiment"
    except StorageError:
        raise
    except (InputError, FileNotFoundError):
        sweeps = storage.exists(SWEEP) or bool(storage.directories(TRIALS))
    return verify_sweep(storage) if sweeps else verify_experiment(uri)


def verify_sweep(storage: Storage) -> Findings:
    """Checks every file of a sweep or study that something reads or that repeats others; pictures are not looked at.

    Raises:
        InputError: its storage cannot be read.
    """
    return _Sweep(storage).verified()


class _Sweep:
    """A sweep or study, and what was found of it."""

    def __init__(self, storage: Storage) -> None:
        self._storage, self._findings = storage, Findings()
        self._reader = Reader(storage, self._findings)
        self._told: dict[str, Any] | None = None
        self._ended: Ended | None = None
        self._space: SearchSpace | None = None
        self._points: dict[str, Point] = {}
        """Trials of a sweep by name; none of a study, whose trials its results name."""
        self._stands: dict[str, str] = {}
        """How each trial that has a directory stands, by its markers."""
        self._running = False

    def verified(self) -> Findings:
        self._running = check_lock(self._reader)
        if not self._storage.exists(SWEEP) and not self._storage.directories(TRIALS):
            self._reader.tried(ROOT, lambda: read_root(self._storage))
            self._findings.note(SWEEP, "is not there yet: until then a directory holds nothing that counts")
            return self._findings
        self._told = self._reader.tried(SWEEP, lambda: read_sweep(self._storage))
        self._check_root()
        self._check_base()
        if self._storage.exists(ENDED) and self._told is not None:
            self._ended = self._reader.tried(ENDED, lambda: read_ended(self._storage))
        with self._reader.understanding(SWEEP):
            if self._told is not None and self._told["kind"] == "sweep":
                self._space = SearchSpace.stored(self._told["space"])
                self._points = {point.name: point for point in self._space.points()}
        for name in self._storage.directories(TRIALS):
            self._check_trial(name)
        self._check_stopped()
        self._check_ended()
        self._check_results()
        self._check_store()
        self._check_leftovers()
        return self._findings

    def _trial(self, name: str) -> Storage:
        return self._storage.below(f"{TRIALS}/{name}")

    def _check_root(self) -> None:
        kind = self._reader.tried(ROOT, lambda: read_root(self._storage))
        if kind is not None and self._told is not None and kind != self._told["kind"]:
            self._findings.add(ROOT, f"is that of a {kind}, {SWEEP} that of a {self._told['kind']}: {RESTORE}")

    def _check_base(self) -> None:
        """Checks that base.yaml is what was written for this sweep."""
        text = self._reader.read(BASE)
        if text is None or self._told is None:
            return
        try:
            unsigned_config(text, sweep_id(self._storage))
        except ValueError as error:
            self._findings.add(BASE, f"is damaged ({error}): {AGAIN}")

    def _check_trial(self, name: str) -> None:
        """Verifies a trial as an experiment, and that it is that of this sweep."""
        at, trial = f"{TRIALS}/{name}", self._trial(name)
        if self._points and name not in self._points:
            self._findings.note(at, "is no trial of this sweep")
        try:
            own = verify_experiment(trial.uri)
        except StorageError:
            raise
        except InputError:
            self._findings.note(at, "holds nothing yet")
            return
        self._findings.checked.update(own.checked)
        for finding in own.wrong:
            self._findings.add(f"{at}/{finding.place}", finding.what)
        for finding in own.notes:
            # Those are looked at with all that is shared.
            entry = finding.what.removeprefix("features lie in ").partition(",")[0]
            checked = finding == (marker_file(STAGE), elsewhere(entry)) and self._storage.exists(f"{SHARED}/{entry}")
            if not checked:
                self._findings.note(f"{at}/{finding.place}", finding.what)
        self._stands[name] = _stands(trial)
        begun = begun_identity(trial)
        if name in self._points and begun is not None and self._told is not None:
            wanted = {**self._told["fixed"], **as_texts(_sets(self._points[name]))}
            found = as_texts(begun)
            if different := sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key)):
                self._findings.add(f"{at}/{CONFIG}", f"has other {', '.join(different)} than the trial: {RESTORE}")

    def _check_stopped(self) -> None:
        """Checks what says that trials were stopped."""
        for file in self._storage.files(STOPPED_TRIALS):
            name = file.removeprefix(f"{STOPPED_TRIALS}/").removesuffix(".json")
            if file != stopped_file(name) or (self._points and name not in self._points):
                self._findings.note(file, "is of no trial of this sweep")
                continue
            number = self._reader.tried(file, partial(read_stopped, self._storage, name))
            if number is not None and self._stands.get(name, OPEN) == OPEN:
                self._stands[name] = STOPPED

    def _check_ended(self) -> None:
        """Checks that every trial stands as it did when the sweep ended."""
        if self._ended is None:
            if self._points and all(self._stands.get(name, OPEN) != OPEN for name in self._points):
                self._miss_ended()
            return
        for name in self._points:
            then, now = self._ended.trials.get(name, OPEN), self._stands.get(name, OPEN)
            if then != now:
                self._findings.add(
                    self._lost(name, then), f"is gone, since {ENDED} says that {name} was {then}: {RESTORE}"
                )
        for each in broken(self._storage, self._ended.files):
            self._findings.add(each.name, f"{each.what} ({ENDED}): {RESTORE}")

    def _miss_ended(self) -> None:
        if not self._running and not self._storage.exists(ENDED):
            self._findings.add(ENDED, f"is gone, although all trials are done: {AGAIN}")

    def _lost(self, name: str, then: str) -> str:
        """The place of what says how a trial ended, given that it stands otherwise now."""
        trial = self._trial(name)
        if not trial.entries():
            return f"{TRIALS}/{name}"
        if then == STOPPED:
            return stopped_file(name)
        return f"{TRIALS}/{name}/{marker_file(report_stage(_rounds(trial) or 0))}"

    def _check_results(self) -> None:
        """Checks the results against the trials."""
        if self._space is not None:
            self._check_cells(self._space)
        elif self._told is not None and self._told["kind"] == "study":
            self._check_runs()

    def _check_cells(self, space: SearchSpace) -> None:
        rows: dict[Point, Last] = {}
        try:
            for name, point in self._points.items():
                if has_metrics(self._trial(name)):
                    # What differs from how it ended has been said.
                    told = self._stands if self._ended is None else self._ended.trials
                    rows[point] = read_metrics(self._trial(name))[-1], told.get(name, OPEN)
        except StorageError:
            raise
        except InputError:
            self._findings.note(RESULTS, "was not compared with the trials, since some of them are damaged")
            return
        with self._reader.understanding(RESULTS):
            for name, data in repeated(cells_of(rows, space)).items():
                self._check_repeated(name, data)

    def _check_repeated(self, name: str, data: bytes) -> None:
        """Checks a file that repeats others; before the end it may be behind them."""
        found = self._reader.read(name)
        if found is None or found == data:
            return
        say = self._findings.note if self._ended is None else self._findings.add
        say(name, f"is not what the trials say: {AGAIN}")

    def _check_runs(self) -> None:
        found = self._reader.tried(RESULTS, lambda: read_results(self._storage))
        if found is None:
            return
        with self._reader.understanding(RESULTS):
            if (text := self._reader.read(TEXT)) is not None and text != text_of(found):
                self._findings.add(TEXT, f"is not what {RESULTS} says: {AGAIN}")
            for run in (*found["runs"], *found["other_runs"]):
                self._check_run(run)
            there = {run_key(run)[:3] for run in found["runs"]}
            if all(key in there for key in wanted_keys(found)):
                self._miss_ended()

    def _check_run(self, run: Mapping[str, Any]) -> None:
        """Checks a run against its trial, where that is there and has not run anew with other settings."""
        key = run_key(run)
        name = Case(*key[:3], settings={}).name
        trial = self._trial(name)
        begun = begun_identity(trial) if self._stands.get(name) == FINISHED else None
        if begun is None or settings_of(begun) != key[3]:
            return
        try:
            if run_of(trial, key, _rounds(trial) or 0) != run:
                self._findings.add(RESULTS, f"says something else of {name} than its records: {RESTORE}")
        except StorageError:
            raise
        except InputError:
            self._findings.note(RESULTS, f"was not compared with {TRIALS}/{name}, which is damaged")

    def _check_store(self) -> None:
        with self._reader.understanding(SHARED):
            for each in broken_store(self._storage, ended=self._ended is not None):
                self._findings.add(each.name, f"{each.what}: delete {'/'.join(each.name.split('/')[:2])}")

    def _check_leftovers(self) -> None:
        """Notes what killed runs left beside the trials."""
        for name in self._storage.tree(""):
            last = name.rpartition("/")[2]
            if not (name.startswith(f"{TRIALS}/") or self._running) and (
                unfinished_owner(name) is not None or last.startswith(WRITE_TEST)
            ):
                self._findings.note(name, "was being written, maybe by a run that was killed: delete it if none works")


def _stands(trial: Storage) -> str:
    """FINISHED where the last round has its report, else OPEN."""
    rounds = _rounds(trial)
    return FINISHED if rounds is not None and Stages(trial).done(report_stage(rounds)) else OPEN


def _rounds(trial: Storage) -> int | None:
    """How many rounds a trial has; None where that cannot be read, which verify_experiment has named."""
    try:
        return len(trial.read_sealed(PLAN)["rounds"])
    except StorageError:
        raise
    except (InputError, FileNotFoundError, KeyError, TypeError):
        return None


def _sets(point: Point) -> dict[str, Any]:
    """The identity keys that a point sets."""
    return {
        "seed": point.seed,
        "model.curvature": point.curvature,
        "acquisition.budget": point.budget,
        "acquisition.function": point.acquisition,
    }
