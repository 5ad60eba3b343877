"""HALO (Franco et al., ICML 2024): the whole method on one screen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from halo_ray.annotations.annotate import annotate
from halo_ray.config import Config
from halo_ray.context import Context, open_experiment
from halo_ray.evaluation import evaluate
from halo_ray.features import compute_features
from halo_ray.report.write import report_experiment
from halo_ray.results import announce, read_metrics, record
from halo_ray.scoring import score_pool
from halo_ray.selection import select_regions
from halo_ray.shared_stages import stages_of
from halo_ray.stage_order import report_stage
from halo_ray.storage import round_directory
from halo_ray.training.stage import train

OnRound = Callable[[dict[str, Any]], None]


def run_experiment(config: Config, on_round: OnRound | None = None) -> list[dict[str, Any]]:
    """Pretrains on the source, then buys labels of the pool in rounds; every stage is done once and may be resumed.

    Args:
        on_round: called with the record of each round, also where that was done by an earlier run.

    Returns:
        The records of metrics.jsonl: round 0, before any purchase, then one per round.

    Raises:
        InputError: something in the configuration, the data or the machine must be mended first.
        AnswersNeededError: people must label what a round asks first; the next run goes on from there.
    """
    with open_experiment(config) as context:
        stages, training = stages_of(context), context.config.training
        stage = stages.run

        def judge(number: int, *models: str) -> None:
            at = round_directory(number)
            quality = stage(f"{at}/evaluate", evaluate, context, f"round {number}", *models)
            metrics = stage(f"{at}/record", record, context, stages, number, models[0], *quality)
            announce(context, metrics)
            if on_round is not None:
                on_round(metrics)

        model = twin = pretrained = _pretrain(context, stage)
        judge(0, model)

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
                twin = _train_twin(context, stage, number, twin)
                models.append(twin)
            judge(number, *models)

        if training.protocol == "fully_supervised":
            how = {"start": model, "number": 1, "labels": "all"}
            model = stage("rounds/001/train", train, context, "rounds/001/checkpoint", **how)["checkpoint"]
            judge(1, model)
        stage(report_stage(len(context.plan)), report_experiment, context)
        return read_metrics(context.storage)


def prepare_experiment(config: Config, *, only_features: bool = False) -> None:
    """Does the stages of an experiment that others share, for another budget or acquisition function, and no more.

    Args:
        only_features: stop where a pretrained model would begin to matter.

    Raises:
        InputError: as run_experiment.
    """
    with open_experiment(config) as context:
        stage = stages_of(context).run
        if only_features:
            _store_features(context, stage)
            return
        twin = pretrained = _pretrain(context, stage)
        stage("rounds/000/evaluate", evaluate, context, "round 0", pretrained)
        for number in range(1, len(context.plan) + 1):
            if number == 1:
                stage("rounds/001/score", score_pool, context, number, pretrained)
            if config.training.trains_twin:
                start = pretrained if config.training.between_rounds == "restart" else twin
                twin = _train_twin(context, stage, number, start)


def _store_features(context: Context, stage: Callable[..., Any]) -> None:
    if context.config.training.cache_features:
        stage("features", compute_features, context)


def _pretrain(context: Context, stage: Callable[..., Any]) -> str:
    _store_features(context, stage)
    return str(stage("pretrain", train, context, "pretrain/checkpoint", start=None)["checkpoint"])


def _train_twin(context: Context, stage: Callable[..., Any], number: int, start: str) -> str:
    """On the same source images as the model, without any bought label."""
    at = f"{round_directory(number)}/control"
    return str(stage(at, train, context, at, start=start, number=number, labels="none")["checkpoint"])
