"""Which stages an experiment has, and which must be done before each."""

from __future__ import annotations

from halo_ray.config import Config
from halo_ray.stages import BEGIN
from halo_ray.storage import round_directory


def report_stage(rounds: int) -> str:
    """The stage that ends an experiment of so many rounds."""
    return f"report-{rounds}"


def prerequisites(config: Config, rounds: int) -> dict[str, tuple[str, ...]]:
    """Every stage that the experiment may have, with those that must be done before it.

    An experiment that was only prepared for others has its first scores and all twins before other stages. One that was
    asked for more rounds keeps the report of fewer.
    """
    training = config.training
    features: tuple[str, ...] = ("features",) if training.cache_features else ()
    needs: dict[str, tuple[str, ...]] = {BEGIN: (), **dict.fromkeys(features, (BEGIN,))}
    start = round_directory(0)
    needs |= {"pretrain": features or (BEGIN,), f"{start}/evaluate": ("pretrain",)}
    needs[f"{start}/record"] = (f"{start}/evaluate",)
    for number in range(1, rounds + 1):
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
    if not rounds:
        last = start
        if training.protocol == "fully_supervised":
            last = round_directory(1)
            needs[f"{last}/train"] = (f"{start}/record",)
            needs[f"{last}/evaluate"] = (f"{last}/train",)
            needs[f"{last}/record"] = (f"{last}/evaluate",)
        needs[report_stage(0)] = (f"{last}/record",)
    return needs
