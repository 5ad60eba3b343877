"""The markers of an experiment: which stages are done, and whether that can have come about."""

from __future__ import annotations

from halo_ray.context import report_stage
from halo_ray.storage import round_directory
from halo_ray.verification.reader import RESTORE
from halo_ray.verification.subject import Subject, marker_file

SHARED = "shared/"
"""Below stages/: notes on results that were, or could be, shared with other experiments."""


def find_done(subject: Subject) -> None:
    """Lists the markers; what is committed later, by a run that goes on, is not looked at."""
    storage = subject.reader.storage
    directories = ["stages", "stages/rounds"]
    directories += [f"stages/rounds/{name}" for name in storage.directories("stages/rounds")]
    for directory in directories:
        for file in storage.files(directory):
            if file.endswith(".json"):
                subject.done.add(file.removeprefix("stages/").removesuffix(".json"))
            else:
                subject.findings.note(file, "is no marker of a stage: delete it")


def check_stages(subject: Subject) -> None:
    """Checks that every marker is whole, that it is of a stage of this experiment, and that none is missing."""
    findings = subject.findings
    for stage in sorted(subject.done):
        marker = subject.marker(stage)
        seconds = 0.0 if marker is None else marker["seconds"]
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds >= 0:
            findings.add(marker_file(stage), f"says that it took {seconds!r} seconds: {RESTORE}")
    if subject.config is None or subject.plan is None:
        findings.note("stages", "their order was not checked, since config.yaml or plan.json cannot be read")
        return
    needs = prerequisites(subject)
    missing: dict[str, str] = {}
    for stage in sorted(subject.done):
        if stage not in needs:
            findings.add(marker_file(stage), f"is of no stage of this experiment of {subject.rounds} rounds: delete it")
        for need in needs.get(stage, ()):
            if need not in subject.done:
                missing.setdefault(need, stage)
    for need, stage in missing.items():
        findings.add(marker_file(need), f"is gone, although {stage} is done, which comes after it: {RESTORE}")
    for name in subject.reader.tree():
        if name.startswith(f"stages/{SHARED}") and name.endswith(".json"):
            note = subject.reader.json(name)
            if note is not None and not isinstance(note, str):
                findings.add(name, f"names no result: {RESTORE}")


def prerequisites(subject: Subject) -> dict[str, tuple[str, ...]]:
    """Every stage that the experiment may have, with those that must be done before it.

    An experiment that was only prepared for others has its first scores and all twins before other stages. One that was
    asked for more rounds keeps the report of fewer.
    """
    assert subject.config is not None
    training = subject.config.training
    features: tuple[str, ...] = ("features",) if training.cache_features else ()
    needs: dict[str, tuple[str, ...]] = dict.fromkeys(features, ())
    start = round_directory(0)
    needs |= {"pretrain": features, f"{start}/evaluate": ("pretrain",), f"{start}/record": (f"{start}/evaluate",)}
    for number in range(1, subject.rounds + 1):
        before, at = round_directory(number - 1), round_directory(number)
        needs[f"{at}/score"] = ("pretrain",) if number == 1 else (f"{before}/record",)
        needs[f"{at}/select"] = f"{at}/score", f"{before}/record"
        needs[f"{at}/annotate"] = (f"{at}/select",)
        needs[f"{at}/train"] = (f"{at}/annotate",)
        trained: tuple[str, ...] = (f"{at}/train",)
        if training.trains_twin:
            needs[f"{at}/control"] = ("pretrain",) if number == 1 else (f"{before}/control",)
            trained = *trained, f"{at}/control"
        needs[f"{at}/evaluate"] = trained
        needs[f"{at}/record"] = (f"{at}/evaluate",)
        needs[report_stage(number)] = (f"{at}/record",)
    if not subject.rounds:
        last = start
        if training.protocol == "fully_supervised":
            last = round_directory(1)
            needs[f"{last}/train"] = (f"{start}/record",)
            needs[f"{last}/evaluate"] = (f"{last}/train",)
            needs[f"{last}/record"] = (f"{last}/evaluate",)
        needs[report_stage(0)] = (f"{last}/record",)
    return needs
