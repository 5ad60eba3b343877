"""HALO (Franco et al., ICML 2024): the whole method on one screen."""

from __future__ import annotations

from typing import Any

from halo_ray.annotations.annotate import annotate
from halo_ray.config import Config
from halo_ray.context import open_experiment, report_stage
from halo_ray.evaluation import evaluate
from halo_ray.report import write_overview
from halo_ray.results import read_metrics, record, round_line
from halo_ray.scoring import score_pool
from halo_ray.selection import select_regions
from halo_ray.storage import Stages, round_directory
from halo_ray.training import train


def run_experiment(config: Config) -> list[dict[str, Any]]:
    """Pretrains on the source, then buys labels of the pool in rounds; every stage is done once and may be resumed.

    Returns:
        The records of metrics.jsonl: round 0, before any purchase, then one per round.

    Raises:
        InputError: something in the configuration, the data or the machine must be mended first.
    """
    with open_experiment(config) as context:
        stages = Stages(context.storage)
        stage = stages.run
        seed = context.round_seed(0)
        model = stage("pretrain", train, context, "pretrain/checkpoint", start=None, seed=seed)["checkpoint"]
        twin = model
        quality = stage("rounds/000/evaluate", evaluate, context, "round 0", model)
        metrics = stage("rounds/000/record", record, context, stages, 0, *quality)
        print(round_line(metrics, 0), flush=True)

        for number in range(1, len(context.plan) + 1):
            # Each round's source images are a sequence of their own; the twin without labels sees the same.
            at, seed = round_directory(number), context.round_seed(number)
            scored = stage(f"{at}/score", score_pool, context, number, model)
            chosen = stage(f"{at}/select", select_regions, context, number, **scored)
            stage(f"{at}/annotate", annotate, context, number, chosen["selection"], chosen["candidates"], model)
            trained = stage(f"{at}/train", train, context, f"{at}/checkpoint", start=model, labelled=number, seed=seed)
            model = trained["checkpoint"]
            models = [model]
            if config.training.control:
                trained = stage(f"{at}/control", train, context, f"{at}/control", start=twin, seed=seed)
                twin = trained["checkpoint"]
                models.append(twin)
            quality = stage(f"{at}/evaluate", evaluate, context, f"round {number}", *models)
            metrics = stage(f"{at}/record", record, context, stages, number, *quality)
            print(round_line(metrics, chosen["regions"]), flush=True)
        rows = read_metrics(context.storage)
        stage(report_stage(len(context.plan)), write_overview, context, rows)
        return rows
