"""HALO (Franco et al., ICML 2024): the whole method on one screen."""

from __future__ import annotations

from typing import Any

from halo_ray.annotations.annotate import annotate
from halo_ray.config import Config
from halo_ray.context import open_experiment, report_stage
from halo_ray.evaluation import evaluate
from halo_ray.features import compute_features
from halo_ray.report import write_overview
from halo_ray.results import read_metrics, record, round_line
from halo_ray.scoring import score_pool
from halo_ray.selection import select_regions
from halo_ray.storage import Stages, round_directory
from halo_ray.training.stage import train


def run_experiment(config: Config) -> list[dict[str, Any]]:
    """Pretrains on the source, then buys labels of the pool in rounds; every stage is done once and may be resumed.

    Returns:
        The records of metrics.jsonl: round 0, before any purchase, then one per round.

    Raises:
        InputError: something in the configuration, the data or the machine must be mended first.
    """
    with open_experiment(config) as context:
        stages, training = Stages(context.storage), config.training
        stage = stages.run

        def judge(number: int, regions: int, *models: str) -> None:
            at = round_directory(number)
            quality = stage(f"{at}/evaluate", evaluate, context, f"round {number}", *models)
            metrics = stage(f"{at}/record", record, context, stages, number, models[0], *quality)
            print(round_line(metrics, regions), flush=True)

        if training.cache_features:
            stage("features", compute_features, context)
        pretrained = stage("pretrain", train, context, "pretrain/checkpoint", start=None)["checkpoint"]
        model = twin = pretrained
        judge(0, 0, model)

        for number in range(1, len(context.plan) + 1):
            at = round_directory(number)
            scored = stage(f"{at}/score", score_pool, context, number, model)
            chosen = stage(f"{at}/select", select_regions, context, number, **scored)
            stage(f"{at}/annotate", annotate, context, number, chosen["selection"], chosen["candidates"], model)
            if training.between_rounds == "restart":
                model = twin = pretrained
            how = {"start": model, "number": number, "labels": "bought"}
            model = stage(f"{at}/train", train, context, f"{at}/checkpoint", **how)["checkpoint"]
            models = [model]
            if training.trains_twin:
                how = {"start": twin, "number": number, "labels": "none"}
                twin = stage(f"{at}/control", train, context, f"{at}/control", **how)["checkpoint"]
                models.append(twin)
            judge(number, chosen["regions"], *models)

        if training.protocol == "fully_supervised":
            how = {"start": model, "number": 1, "labels": "all"}
            model = stage("rounds/001/train", train, context, "rounds/001/checkpoint", **how)["checkpoint"]
            judge(1, 0, model)
        rows = read_metrics(context.storage)
        stage(report_stage(len(context.plan)), write_overview, context, rows)
        return rows
