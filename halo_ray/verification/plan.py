"""The plan of an experiment against its budget."""

from __future__ import annotations

from fractions import Fraction

from halo_ray.acquisition.budget import AcquisitionConfig, region_pixels
from halo_ray.stored_config import CONFIG, PLAN
from halo_ray.verification.reader import RESTORE
from halo_ray.verification.subject import Pool, Subject


def budget_pixels(config: AcquisitionConfig, budget: float, pool: Pool) -> Fraction:
    """Pixels that a budget, in units of acquisition.budget_unit, pays for."""
    exact = Fraction(str(budget))
    each = {"share": pool.pixels, "pixels": 1, "regions": region_pixels(config)}
    return exact * each[config.budget_unit]


def check_plan(subject: Subject) -> None:
    """Checks that the plan spends no more than the budget, and that config.yaml means the same experiment."""
    config, plan, budget, pool = subject.config, subject.plan, subject.budget, subject.pool
    if config is None or plan is None or budget is None:
        return
    findings, buys = subject.findings, config.training.buys
    if not buys and plan:
        findings.add(PLAN, f"has {len(plan)} rounds, but training.protocol {config.training.protocol} buys nothing")
    said, stored = (config.rounds, config.acquisition.budget), (len(plan), budget)
    if buys and said != stored:
        what = f"says {said[0]} rounds and budget {said[1]}, {PLAN} says {stored[0]} and {stored[1]}"
        if said[0] < stored[0]:
            findings.note(CONFIG, f"{what}: a run was killed while it was extended; the plan counts")
        else:
            findings.add(CONFIG, f"{what}: restore both from a copy")
    if pool is None or not plan:
        return
    with subject.reader.understanding(PLAN):
        _check_spending(subject, config.acquisition, budget_pixels(config.acquisition, budget, pool), pool)


def _check_spending(subject: Subject, config: AcquisitionConfig, pixels: Fraction, pool: Pool) -> None:
    plan = subject.plan or []
    regions = [each.regions for each in plan]
    for number, each in enumerate(plan, start=1):
        if each.regions < 1 or Fraction(each.share) <= 0:
            subject.findings.add(PLAN, f"round {number} buys {each.regions} regions (share {each.share}): {RESTORE}")
    share = sum(Fraction(each.share) for each in plan) * pool.pixels
    if share > pixels:
        subject.findings.add(
            PLAN, f"its shares make {float(share):g} pixels, the budget pays for {float(pixels):g}: {RESTORE}"
        )
    if config.scope == "pool":
        if sum(regions) * region_pixels(config) > pixels:
            subject.findings.add(
                PLAN,
                f"its rounds buy {sum(regions)} regions of {region_pixels(config)} pixels, the budget pays for "
                f"{float(pixels):g} pixels: {RESTORE}",
            )
        return
    for number, each in enumerate(plan, start=1):
        # Each image's number is rounded up, by the definition of the paper.
        expected = int(pool.limits(config, each).sum())
        if each.regions != expected:
            subject.findings.add(
                PLAN, f"round {number} buys {each.regions} regions, its share makes {expected} over all: {RESTORE}"
            )
