"""The markers of an experiment: which stages are done, and whether that can have come about."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from halo_ray.atomic import unfinished_owner
from halo_ray.errors import InputError
from halo_ray.results import outdated
from halo_ray.seals import AGAIN, NOTES, broken, broken_answers, broken_report, committed
from halo_ray.stage_order import prerequisites, report_stage
from halo_ray.stages import marker_file
from halo_ray.storage import Storage
from halo_ray.stored_config import CONFIG, PLAN, config_owner
from halo_ray.verification.reader import RESTORE
from halo_ray.verification.subject import Subject


def find_done(subject: Subject) -> None:
    """Lists the markers; what is committed later, by a run that goes on, is not looked at."""
    storage = subject.reader.storage
    subject.done |= {*committed(storage)}
    for file in storage.tree("stages"):
        if not file.endswith(".json") and not file.startswith(f"stages/{NOTES}") and unfinished_owner(file) is None:
            subject.findings.note(file, "is no marker of a stage: delete it")


def check_experiment_names(subject: Subject) -> None:
    """Checks that markers, plan and configuration name one experiment; what differs from most is named."""
    storage, told = subject.reader.storage, dict[str, str]()
    for stage in sorted(subject.done):
        marker = subject.marker(stage)
        if marker is not None:
            told[marker_file(stage)] = str(marker["experiment"])
    plan = subject.reader.sealed(PLAN, ("experiment", "budget", "rounds"))
    if plan is not None:
        told[PLAN] = str(plan["experiment"])
    if (owner := _owner_of_config(storage)) is not None:
        told[CONFIG] = owner
    if not told:
        return
    subject.experiment = Counter(told.values()).most_common(1)[0][0]
    for name, experiment in told.items():
        if experiment != subject.experiment:
            subject.findings.add(name, f"is of another experiment than most: {RESTORE}")


def _owner_of_config(storage: Storage) -> str | None:
    """The experiment that config.yaml names; None where it is gone or damaged, which is said elsewhere."""
    try:
        return config_owner(storage.read(CONFIG))
    except (FileNotFoundError, ValueError):
        return None


def check_seals(subject: Subject) -> None:
    """Checks the digests of all files that markers seal, of the report, and of what repeats the records."""
    storage, findings = subject.reader.storage, subject.findings
    for stage in sorted(subject.done):
        marker = subject.marker(stage)
        if marker is None:
            continue
        with subject.reader.understanding(marker_file(stage)):
            findings.checked["files"] += len(marker["files"])
            for each in broken(storage, marker["files"]):
                findings.add(each.name, f"{each.what} ({marker_file(stage)}): {RESTORE}")
                findings.broken.add(each.name)
    if subject.experiment is not None and any(stage.startswith("report-") for stage in subject.done):
        for each in broken_report(storage, subject.experiment):
            findings.add(each.name, f"{each.what}: {AGAIN}")
            findings.broken.add(each.name)
    with suppress(InputError):  # of what was received, which was said
        for each in broken_answers(storage):
            findings.add(each.name, f"{each.what}: {RESTORE}, or delete it, and the next run writes it again")
    # A run that is killed may be a record ahead in them, or behind.
    if report_stage(subject.rounds) in subject.done and not subject.running:
        with suppress(InputError):  # of a marker, which was said
            for name in outdated(storage):
                findings.add(name, "is not what the markers say: run the experiment again, which writes it anew")


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
    needs = prerequisites(subject.config, subject.rounds)
    missing: dict[str, str] = {}
    for stage in sorted(subject.done):
        if stage not in needs:
            findings.add(marker_file(stage), f"is of no stage of this experiment of {subject.rounds} rounds: delete it")
        for need in needs.get(stage, ()):
            if need not in subject.done:
                missing.setdefault(need, stage)
    for need, stage in missing.items():
        findings.add(marker_file(need), f"is gone, although {stage} is done, which comes after it: {RESTORE}")
    last = report_stage(subject.rounds)
    if last not in subject.done and not subject.running:
        findings.note(
            marker_file(last), "is not there: the experiment has not ended, and the same command goes on with it"
        )
    for name in subject.reader.tree():
        if name.startswith(f"stages/{NOTES}") and name.endswith(".json"):
            note = subject.reader.sealed(name, ("experiment", "stage", "entry"))
            if note is not None and note["stage"] != name.removeprefix(f"stages/{NOTES}").removesuffix(".json"):
                findings.add(name, f"is the note on {note['stage']}: {RESTORE}")
