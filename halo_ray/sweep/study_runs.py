"""The runs of a study in results.json, of which each says what a trial found."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from halo_ray.annotations.ledger import Ledger
from halo_ray.config import Config, identity
from halo_ray.data.classes import IGNORE
from halo_ray.errors import InputError
from halo_ray.patience import StorageError
from halo_ray.results import Row, has_metrics, read_metrics
from halo_ray.stages import Stages
from halo_ray.storage import Storage, digest_of, sealed, sha256
from halo_ray.stored_config import CONFIG, read_stored_config, unsigned_config
from halo_ray.sweep.directory import ENDED, RESULTS, read_ended
from halo_ray.sweep.space import TRIALS, as_texts, configure
from halo_ray.sweep.status import FINISHED, status
from halo_ray.sweep.study import Case, Study

_KEPT = ("iou", "accuracy", "class_accuracy", "class_share", "class_radius")
"""Of the first record and the last."""

_DIGITS = 6
"""Behind the point: more than any table shows."""

RunKey = tuple[str, float, int, str]
"""Variant, budget, seed, and the hash of all settings."""

_KINDS = {"base": dict, "variants": dict, "tables": list, "runs": list, "other_runs": list}
"""What results.json holds."""

_RUN = {
    "variant": str,
    "budget": float,
    "seed": int,
    "settings": str,
    "miou": list,
    "pixels": int,
    "images": int,
    "bought": dict,
    "first": dict,
    "last": dict,
    "seconds": dict,
    "versions": dict,
}
"""What it holds of each run."""


def recorded_runs(base: Config, study: Study) -> dict[str, dict[str, Any]]:
    """The runs in results.json that are trials of ``study`` with the same settings, by name.

    Raises:
        InputError: the file is damaged, or not that of a study.
    """
    held = held_runs(Storage(base.output_dir))
    names = ((case.name, (case.variant, case.budget, case.seed, _settings(base, case))) for case in study.points())
    return {name: held[key] for name, key in names if key in held} if held else {}


def runs_elsewhere(storage: Storage, known: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Those of ``known`` whose trial has no directory in ``storage``, or one that was begun with other settings."""
    there = storage.directories(TRIALS)

    def has_directory(name: str, run: Mapping[str, Any]) -> bool:
        if name not in there:
            return False
        begun = begun_identity(storage.below(f"{TRIALS}/{name}"))
        return begun is None or settings_of(begun) == run["settings"]

    return {name: run for name, run in known.items() if not has_directory(name, run)}


def begun_identity(trial: Storage) -> dict[str, Any] | None:
    """The identity keys with which the directory of a trial was begun; None where they cannot be read."""
    try:
        data, experiment = trial.read(CONFIG), Stages(trial).experiment
        unsigned_config(data, experiment)
        stored = read_stored_config(data)
    except StorageError:
        raise
    except (InputError, FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return identity(stored.config) | {"acquisition.function": stored.function, "annotation.oracle": stored.oracle}


def restore_results(storage: Storage, base: Config, study: Study) -> None:
    """Makes results.json again where it is gone since a study ended.

    Raises:
        InputError: it is another than then, or the trials do not give it again.
    """
    ended = read_ended(storage)
    digest = None if ended is None else ended.files.get(RESULTS)
    if digest is None:
        return
    if storage.exists(RESULTS):
        if sha256(storage.read(RESULTS)) != digest:
            raise storage.damaged(RESULTS, f"it is not that of {ENDED}")
        return
    again = sealed(found_by(base, study, {}))
    if sha256(again) != digest:
        raise InputError(
            f"{storage.uri}/{RESULTS} is gone, and the trials that are there do not give it again: restore it from a "
            f"copy, or delete {ENDED} too, so that what is missing runs again"
        )
    storage.write(RESULTS, again)


def found_by(
    base: Config, study: Study, known: Mapping[str, dict[str, Any]], finished: Container[str] = ()
) -> dict[str, Any]:
    """What results.json shall hold."""
    runs = [run for case in study.points() if (run := known.get(case.name) or _run(base, case, finished))]
    now = {run_key(run) for run in runs}
    return {
        "base": as_texts({key: value for key, value in _comparable(identity(base)).items() if key not in study.swept}),
        "variants": {name: as_texts(own) for name, own in study.variants.items()},
        "tables": [asdict(table) for table in study.tables],
        "runs": runs,
        "other_runs": [run for key, run in held_runs(Storage(base.output_dir)).items() if key not in now],
    }


def read_results(storage: Storage) -> dict[str, Any]:
    """What results.json holds.

    Raises:
        InputError: it is damaged, or not that of a study.
    """
    found = storage.read_sealed(RESULTS)
    if set(found) != set(_KINDS) or not all(isinstance(found[key], kind) for key, kind in _KINDS.items()):
        raise _foreign(storage)
    if not all(map(_is_run, (*found["runs"], *found["other_runs"]))):
        raise _foreign(storage)
    return found


def held_runs(storage: Storage) -> dict[RunKey, dict[str, Any]]:
    """All runs that results.json holds, where there is one, by what tells them apart.

    Raises:
        InputError: it is damaged, or not that of a study.
    """
    if not storage.exists(RESULTS):
        return {}
    found = read_results(storage)
    return {run_key(run): run for run in (*found["runs"], *found["other_runs"])}


def _is_run(run: Any) -> bool:
    return isinstance(run, dict) and set(run) == set(_RUN) and all(isinstance(run[key], _RUN[key]) for key in _RUN)


def _foreign(storage: Storage) -> InputError:
    return InputError(f"{storage.uri}/{RESULTS} is not that of a study: move it away, or name another output_dir")


def run_key(run: Mapping[str, Any]) -> RunKey:
    return run["variant"], run["budget"], run["seed"], run["settings"]


def wanted_keys(found: Mapping[str, Any]) -> set[tuple[str, float, int]]:
    """Variant, budget and seed of all that the tables in results.json have a place for."""
    return {
        (variant, budget, seed)
        for table in found["tables"]
        for variant in table["variants"]
        for budget in table["budget"]
        for seed in range(table["seeds"])
    }


def _run(base: Config, case: Case, finished: Container[str]) -> dict[str, Any] | None:
    """What a trial that is finished found; None of any other."""
    config = configure(base, case)
    storage = Storage(config.output_dir)
    # One without a record has no status to ask for.
    if not has_metrics(storage) or status(base, case, finished) != FINISHED:
        return None
    return run_of(storage, (case.variant, case.budget, case.seed, _settings(base, case)), config.rounds)


def run_of(storage: Storage, key: RunKey, rounds: int) -> dict[str, Any]:
    """What a trial that is finished found, as results.json holds it; ``rounds`` bought labels."""
    rows, (variant, budget, seed, settings) = read_metrics(storage), key
    return {
        "variant": variant,
        "budget": budget,
        "seed": seed,
        "settings": settings,
        "miou": [round(row["miou"], _DIGITS) for row in rows],
        "pixels": rows[-1]["pixels"],
        "images": rows[-1]["images_touched"],
        "bought": _bought(storage, rows, rounds),
        "first": _rounded({key: rows[0][key] for key in _KEPT}),
        "last": _rounded({key: rows[-1][key] for key in _KEPT}),
        "seconds": {str(row["round"]): {k: round(v, 1) for k, v in row["seconds"].items()} for row in rows},
        "versions": rows[-1]["versions"],
    }


def _settings(base: Config, case: Case) -> str:
    return settings_of(identity(configure(base, case)))


def settings_of(told: Mapping[str, Any]) -> str:
    """Names all settings of a trial, given its identity keys, by their hash."""
    return digest_of(as_texts(_comparable(told)))


def _comparable(told: Mapping[str, Any]) -> dict[str, Any]:
    """What makes trials on different machines the same: all identity keys, but not where the weights lie."""
    return {**told, "model.backbone": told["model.backbone"].rstrip("/").rpartition("/")[2]}


def _bought(storage: Storage, rows: Sequence[Row], rounds: int) -> dict[str, int]:
    """Bought pixels by class."""
    labels = Ledger(storage).read(rounds + 1, ["label"], first=1)["label"].to_numpy()
    counts = {name: int((labels == number).sum()) for number, name in enumerate(rows[0]["iou"])}
    return counts | {"void": int((labels == IGNORE).sum())}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(below) for key, below in value.items()}
    return round(value, _DIGITS) if isinstance(value, float) else value
