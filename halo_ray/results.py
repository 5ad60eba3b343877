"""What an experiment has found: one record per round, and the table at the end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from halo_ray.annotations.ledger import Ledger, region_count
from halo_ray.event_files import EventFiles
from halo_ray.stages import Stages
from halo_ray.storage import Storage, as_json, round_directory
from halo_ray.text_table import text_table
from halo_ray.versions import versions

if TYPE_CHECKING:
    from halo_ray.context import Context

STAGES = ("features", "pretrain", "score", "select", "annotate", "train", "control", "evaluate")
METRICS = "metrics.jsonl"

Row = dict[str, Any]
"""A record of metrics.jsonl."""

CHECKPOINTS = "checkpoints.json"
"""Names the checkpoints with the best and with the last model."""


def record(
    context: Context,
    stages: Stages,
    number: int,
    checkpoint: str,
    quality: dict[str, Any],
    control: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes what stands after round ``number`` to its metrics.json, and all rounds so far to metrics.jsonl.

    checkpoints.json names the best and the last of all rounds so far.

    Args:
        checkpoint: of the model.
        quality, control: as evaluate gives them, of the model and of its twin without labels.
    """
    storage, directory = context.storage, round_directory(number)
    bought = min(number, len(context.plan))
    asked = Ledger(storage).asked_regions(bought + 1, first=1)
    pixels = Ledger(storage).read(bought + 1, ["label"], first=1).num_rows
    if number > bought:  # full supervision
        pixels = context.splits.pool_pixels
    seconds = {
        stage: stages.seconds(name)
        for stage in STAGES
        for name in (f"{directory}/{stage}", *([stage] if stage in ("features", "pretrain") and number == 0 else []))
        if stages.done(name)
    }
    metrics = {
        "round": number,
        "budget_spent": pixels / context.splits.pool_pixels,
        "pixels": pixels,
        "regions": region_count(asked),
        "images_touched": asked.num_rows,
        "checkpoint": checkpoint,
        "miou": quality["miou"],
        "miou_star": quality["miou_star"],
        "iou": quality["iou"],
        "accuracy": quality["accuracy"],
        "class_accuracy": quality["class_accuracy"],
        "class_share": quality["class_share"],
        "class_radius": quality["class_radius"],
        "control_miou": None if control is None else control["miou"],
        "seconds": seconds,
        "versions": versions(),
    }
    for name, data in derived([*recorded(stages), metrics]).items():
        storage.write(name, data)
    files = EventFiles(storage, "evaluation")
    files.scalars(number, _scalars(quality, "") | (_scalars(control, "control/") if control else {}))
    files.close()
    return metrics


def _scalars(quality: dict[str, Any], prefix: str) -> dict[str, float]:
    """The numbers of an evaluation by the names that TensorBoard shows."""
    named = {key: quality[key] for key in ("miou", "miou_star", "accuracy")}
    named |= {f"iou/{name}": value for name, value in quality["iou"].items()}
    return {prefix + name: value for name, value in named.items() if value is not None}


def has_metrics(storage: Storage) -> bool:
    """Whether a round was recorded."""
    return Stages(storage).done(_record(0))


def read_metrics(storage: Storage) -> list[Row]:
    """All records, round 0 (before any purchase) first; there is at least that.

    Raises:
        InputError: a marker that holds one is gone or damaged.
    """
    stages = Stages(storage)
    return recorded(stages) or [stages.result(_record(0))]


def recorded(stages: Stages) -> list[Row]:
    """The records that are committed."""
    rows: list[Row] = []
    while stages.done(_record(len(rows))):
        rows.append(stages.result(_record(len(rows))))
    return rows


def best_checkpoint(storage: Storage) -> str:
    """The checkpoint whose model was the best on the validation split; ties go to the earliest round."""
    return str(_best(read_metrics(storage))["checkpoint"])


def derived(rows: list[Row]) -> dict[str, bytes]:
    """The files that repeat the records for those who look for them, by name: nothing here reads them."""
    named = {"best": _best(rows), "last": rows[-1]}
    shown = {name: {key: row[key] for key in ("checkpoint", "round", "miou")} for name, row in named.items()}
    return {
        **{f"{round_directory(row['round'])}/metrics.json": as_json(row) for row in rows},
        METRICS: "".join(json.dumps(row) + "\n" for row in rows).encode(),
        CHECKPOINTS: as_json(shown),
    }


def outdated(storage: Storage) -> dict[str, bytes]:
    """What the derived files of an experiment should be, by name, where they are something else or gone."""
    rows = recorded(Stages(storage))

    def differs(name: str, data: bytes) -> bool:
        return not storage.exists(name) or storage.read(name) != data

    return {name: data for name, data in (derived(rows) if rows else {}).items() if differs(name, data)}


def _best(rows: list[Row]) -> Row:
    return max(rows, key=lambda row: float(row["miou"]))


def _record(number: int) -> str:
    return f"{round_directory(number)}/record"


def announce(context: Context, metrics: dict[str, Any]) -> None:
    """Says in the log and on the metrics endpoint what stands after a round."""
    number = metrics["round"]
    regions = 0
    if 0 < number <= len(context.plan):
        regions = region_count(Ledger(context.storage).asked_regions(number + 1, first=number))
    print(round_line(metrics, regions), flush=True)
    for gauge, key in {"round": "round", "pixels_bought": "pixels", "miou": "miou"}.items():
        context.gauges.set(gauge, metrics[key], stage=f"{round_directory(metrics['round'])}/record")


def round_line(metrics: dict[str, Any], regions: int) -> str:
    """One line for the log of a run; ``regions`` were bought in this round."""
    seconds = sum(metrics["seconds"].values())
    control = "" if metrics["control_miou"] is None else f" (without labels {100 * metrics['control_miou']:.1f})"
    return (
        f"round {metrics['round']}: {regions} regions bought, {metrics['pixels']} pixels in all "
        f"({100 * metrics['budget_spent']:.4f} % of the pool), mIoU {100 * metrics['miou']:.1f} %{control}, "
        f"{seconds:.0f} s"
    )


def table(rows: list[Row]) -> str:
    """All rounds beside each other, in percent; IoU of every class below the totals."""
    return "\n".join(text_table(table_lines(rows)))


def table_lines(rows: list[Row]) -> list[list[str]]:
    """The lines of the table, each with its name and a cell for every round."""
    lines = [["round", *(str(row["round"]) for row in rows)]]
    lines.append(["pixels bought", *(str(row["pixels"]) for row in rows)])
    lines.append(["share of the pool", *(f"{100 * row['budget_spent']:.4f} %" for row in rows)])
    lines.append(["images touched", *(str(row["images_touched"]) for row in rows)])
    lines.append(["mIoU", *(_percent(row["miou"]) for row in rows)])
    if rows[-1].get("miou_star") is not None:  # which earlier versions did not record
        lines.append(["mIoU*", *(_percent(row["miou_star"]) for row in rows)])
    if rows[-1]["control_miou"] is not None:
        lines.append(["mIoU without labels", *(_percent(row["control_miou"]) for row in rows)])
    lines += [[f"IoU {name}", *(_percent(row["iou"][name]) for row in rows)] for name in rows[0]["iou"]]
    return lines


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
