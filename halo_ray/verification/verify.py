"""Verify an experiment: nothing is written, no Ray is needed, and no finding keeps others from being found."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from halo_ray.annotations.ledger import Ledger
from halo_ray.data.manifest import pool_mask
from halo_ray.errors import InputError
from halo_ray.patience import StorageError
from halo_ray.root import ROOT, read_root
from halo_ray.storage import Storage, round_directory
from halo_ray.stored_config import CONFIG, PLAN
from halo_ray.verification.checkpoints import check_checkpoints
from halo_ray.verification.features import check_features
from halo_ray.verification.findings import Findings
from halo_ray.verification.ledger import check_purchase, read_purchase
from halo_ray.verification.leftovers import check_leftovers, check_lock
from halo_ray.verification.manifests import check_manifests
from halo_ray.verification.metrics import check_metrics
from halo_ray.verification.pictures import check_maps
from halo_ray.verification.plan import budget_pixels, check_plan
from halo_ray.verification.purchases import Earlier, Purchase
from halo_ray.verification.reader import RESTORE, Reader
from halo_ray.verification.selection import check_picks, check_selections
from halo_ray.verification.stages import check_experiment_names, check_seals, check_stages, find_done
from halo_ray.verification.subject import Subject, read_classes, read_config, read_plan


def verify_experiment(uri: str) -> Findings:
    """Checks every checksum, marker, count and invariant of the experiment in a directory or URI.

    TensorBoard's event files are not looked at. The pool's images and labels are not needed, but for the mask
    acquisition.never.

    Raises:
        InputError: there is no experiment, or its storage cannot be read.
    """
    storage = Storage(uri)
    if not any(storage.exists(name) for name in (ROOT, CONFIG, PLAN, "stages")):
        raise InputError(f"{storage.uri} holds no experiment: name the output_dir of one")
    subject = Subject(Reader(storage, Findings()))
    subject.running = check_lock(subject.reader)
    # First of all: what a run commits from now on is not looked at.
    find_done(subject)
    if not subject.done and not storage.exists(Ledger.file(1)):
        subject.findings.note("stages", "no stage is done yet: until then a directory holds nothing that counts")
        return subject.findings
    if not subject.done:
        subject.findings.add("stages", "is gone, although labels were bought: restore it from a copy")
    check_root_file(subject)
    read_plan(subject)
    read_config(subject)
    check_experiment_names(subject)
    check_seals(subject)
    read_classes(subject)
    check_manifests(subject)
    check_plan(subject)
    check_stages(subject)
    check_features(subject)
    check_checkpoints(subject)
    purchases = _check_rounds(subject)
    check_metrics(subject, purchases)
    check_leftovers(subject)
    subject.findings.settle()
    return subject.findings


def check_root_file(subject: Subject) -> None:
    """Checks that the root file is that of an experiment."""
    kind = subject.reader.tried(ROOT, lambda: read_root(subject.reader.storage))
    if kind not in (None, "experiment"):
        subject.findings.add(ROOT, f"is that of a {kind}: {RESTORE}")


def _check_rounds(subject: Subject) -> dict[int, Purchase]:
    """Checks one round after another; what was bought before a round forbids that it is bought again."""
    earlier, purchases, never = Earlier(), {}, _never(subject)
    for number in range(subject.rounds + 1):
        stored = check_selections(subject, number, earlier) if number else None
        if number:
            check_maps(subject, number)
        if not _is_committed(subject, number):
            continue
        purchase = read_purchase(subject, number)
        if purchase is None:
            continue
        check_purchase(subject, number, purchase, earlier, never)
        if number:
            _check_amount(subject, number, purchase)
            with subject.reader.understanding(f"{round_directory(number)}/selection.json"):
                check_picks(subject, number, purchase, stored)
            subject.findings.checked["rounds"] += 1
            subject.findings.checked["regions"] += len(purchase.regions)
            subject.findings.checked["pixels"] += len(purchase.row)
        purchases[number] = purchase
        earlier.add(number, purchase)
    _check_budget(subject, earlier)
    return purchases


def _is_committed(subject: Subject, number: int) -> bool:
    """Whether a round's ledger must be there, or is; one that was bought before its selection is wrong."""
    at, name = round_directory(number), Ledger.file(number)
    if number == 0 or f"{at}/annotate" in subject.done:
        return True
    if not subject.reader.storage.exists(name):
        return False
    if f"{at}/select" not in subject.done:
        if subject.running:
            return False
        subject.findings.add(name, f"is there, but {at}/select is not done: restore stages/ from a copy")
    return True


def _check_amount(subject: Subject, number: int, purchase: Purchase) -> None:
    """Checks the numbers of regions and pixels of a round against plan and marker."""
    name, stage, plan = Ledger.file(number), f"{round_directory(number)}/annotate", subject.round_plan(number)
    if plan is not None and len(purchase.regions) > plan.regions:
        subject.findings.add(
            name, f"has {len(purchase.regions)} regions, the plan has {plan.regions}: restore it from a copy"
        )
    said = subject.result(stage)
    if said is not None:
        with subject.reader.understanding(f"stages/{stage}.json"):
            counted = {"regions": len(purchase.regions), "pixels": purchase.table.num_rows}
            for key, count in counted.items():
                if said[key] != count:
                    subject.findings.add(
                        name, f"has {count} {key}, stages/{stage}.json says {said[key]}: restore both from a copy"
                    )


def _check_budget(subject: Subject, earlier: Earlier) -> None:
    """Checks that all rounds together spent no more than the budget."""
    config, budget, pool = subject.acquisition, subject.budget, subject.pool
    # Scope image rounds every image's number up, so that its plan, not its budget, is the most it may spend.
    if config is None or budget is None or pool is None or config.scope == "image":
        return
    most = budget_pixels(config, budget, pool)
    if earlier.paid > most:
        subject.findings.add("rounds", f"{earlier.paid} pixels were bought, the budget pays for {float(most):g}")


def _never(subject: Subject) -> npt.NDArray[np.bool_] | None:
    """(H, W): where nothing may be picked; None: nowhere, or that cannot be read here."""
    config, pool = subject.config, subject.pool
    if config is None or pool is None:
        return None
    images = pa.table({"image_id": pool.ids, "height": pool.height, "width": pool.width})
    try:
        return pool_mask(config.acquisition.never, config.data_root, images)
    except StorageError:
        raise
    except (InputError, OSError) as error:
        subject.findings.note(CONFIG, f"acquisition.never was not checked ({error})")
        return None
