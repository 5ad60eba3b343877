"""What a sweep has found: a cell for each curvature, budget and acquisition function, over its seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from halo_ray.config import Config
from halo_ray.figures import COLORS, MARKERS, save_figure
from halo_ray.intervals import CONFIDENCE, half_interval, percent
from halo_ray.results import Row, has_metrics, read_metrics
from halo_ray.storage import Storage, as_json
from halo_ray.sweep.directory import RESULTS
from halo_ray.sweep.space import FLOOR, Point, SearchSpace, configure
from halo_ray.sweep.status import FINISHED, STOPPED, status
from halo_ray.text_table import text_table


@dataclass(frozen=True)
class Cell:
    """What the trials of a curvature, budget and acquisition function found; mIoU from 0 to 1."""

    curvature: float
    budget: float
    acquisition: str
    miou: float
    """Mean over the seeds that were finished; where none was, over the others, after their last round."""
    interval: float | None
    """Half the width of the 95 % interval of that mean (Student's t); None for a single seed."""
    over_floor: float | None
    """Mean of the paired differences to FLOOR over the seeds that both have finished."""
    over_floor_interval: float | None
    pixels: float
    """Bought pixels, mean."""
    share: float
    """The same as a share of the pool."""
    finished: int
    """Seeds."""
    stopped: int
    """Seeds that were stopped before their last round."""
    open: int
    """Seeds that failed, were interrupted or still run."""
    values: list[float]
    """mIoU of the seeds that ``miou`` is the mean of."""


Last = tuple[Row, str]
"""The last record of a trial, and how it stands."""


def read_cells(base: Config, space: SearchSpace, finished: Container[str] = ()) -> list[Cell]:
    """The cells of all trials that have a record, in the order of the space.

    Args:
        finished: names of trials that are known to be.
    """
    found = ((point, _last(base, point, finished)) for point in space.points())
    return cells_of({point: last for point, last in found if last is not None}, space)


def cells_of(rows: Mapping[Point, Last], space: SearchSpace) -> list[Cell]:
    """The cells of those trials, in the order of the space."""
    crossed = product(space.curvature, space.acquisition, space.budget)
    cells = [_cell(rows, space, *values) for values in crossed]
    return [cell for cell in cells if cell is not None]


def table(cells: Sequence[Cell], space: SearchSpace) -> str:
    """A line for each curvature and acquisition function, a column for each budget, in percent."""
    budgets = space.budget
    head = ["curvature", "acquisition", *(f"{budget:g}" for budget in budgets)]
    found = {(cell.curvature, cell.acquisition, cell.budget): cell for cell in cells}
    lines = [
        [f"{curvature:g}", name, *(_text(found.get((curvature, name, budget))) for budget in budgets)]
        for curvature, name in product(space.curvature, space.acquisition)
    ]
    notes = [f"mIoU in % by budget, mean ± {CONFIDENCE:.0%} interval over {space.seeds} seeds"]
    notes.append(f"in brackets: over {FLOOR} with the same seeds")
    if any(cell.stopped for cell in cells):
        notes.append("* seeds that were stopped early are left out; ** all were: mIoU after their last round")
    if any(cell.open for cell in cells):
        notes.append("? seeds are not done; without any other, mIoU after the last round so far")
    return "\n".join([*text_table([head, *lines], left=len(head)), "", *notes])


def write_results(storage: Storage, base: Config, space: SearchSpace, finished: Container[str] = ()) -> list[Cell]:
    """Writes results.json, results.csv and sweep.png to the sweep's directory; gives what they hold.

    Nothing here reads them. They are written again by every run.
    """
    cells = read_cells(base, space, finished)
    for name, data in repeated(cells).items():
        storage.write(name, data)
    _plot(cells, space, storage)
    return cells


def repeated(cells: Sequence[Cell]) -> dict[str, bytes]:
    """The files that repeat the cells, by name."""
    text = io.StringIO()
    columns = [key for key in Cell.__dataclass_fields__ if key != "values"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(cell) for cell in cells)
    return {RESULTS: as_json([asdict(cell) for cell in cells]), "results.csv": text.getvalue().encode()}


def _last(base: Config, point: Point, finished: Container[str]) -> Last | None:
    storage = Storage(configure(base, point).output_dir)
    if not has_metrics(storage):
        return None
    return read_metrics(storage)[-1], status(base, point, finished)


def _cell(
    rows: Mapping[Point, Last],
    space: SearchSpace,
    curvature: float,
    acquisition: str,
    budget: float,
) -> Cell | None:
    seeds = range(space.seeds)
    own = {seed: rows[point] for seed in seeds if (point := Point(curvature, budget, acquisition, seed)) in rows}
    if not own:
        return None
    finished = {seed: row for seed, (row, how) in own.items() if how == FINISHED}
    stopped = sum(how == STOPPED for _, how in own.values())
    shown = finished or {seed: row for seed, (row, _) in own.items()}
    floor = {
        seed: row[0]["miou"]
        for seed in finished
        if (row := rows.get(Point(curvature, budget, FLOOR, seed))) is not None and row[1] == FINISHED
    }
    values = [row["miou"] for row in shown.values()]
    over = [finished[seed]["miou"] - miou for seed, miou in floor.items()] if acquisition != FLOOR else []
    return Cell(
        curvature=curvature,
        budget=budget,
        acquisition=acquisition,
        miou=float(np.mean(values)),
        interval=half_interval(values),
        over_floor=float(np.mean(over)) if over else None,
        over_floor_interval=half_interval(over),
        pixels=float(np.mean([row["pixels"] for row in shown.values()])),
        share=float(np.mean([row["budget_spent"] for row in shown.values()])),
        finished=len(finished),
        stopped=stopped,
        open=len(own) - len(finished) - stopped,
        values=values,
    )


def _text(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    text = percent(cell.miou, cell.interval)
    if cell.over_floor is not None:
        text += f" ({percent(cell.over_floor, cell.over_floor_interval, '+')})"
    return text + ("" if not cell.stopped else "*" if cell.finished else "**") + ("?" if cell.open else "")


def _plot(cells: Sequence[Cell], space: SearchSpace, storage: Storage) -> None:
    """mIoU against budget, a panel for each curvature and a line for each acquisition function."""
    many = len(space.curvature)
    figure = Figure(figsize=(min(4.5 * many, 18) + 1, 4.2), layout="constrained")
    panels = figure.subplots(1, many, sharey=True, squeeze=False)[0]
    for axes, curvature in zip(panels, space.curvature, strict=True):
        for number, name in enumerate(space.acquisition):
            mine = [c for c in cells if (c.curvature, c.acquisition) == (curvature, name) and c.share]
            _line(axes, mine, name, number)
        axes.set(title=f"curvature {curvature:g}", xlabel="pixels bought, % of the pool")
        if len(space.budget) > 1 and any(cell.share for cell in cells):
            axes.set_xscale("log")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("mIoU on the target, %")
    panels[-1].legend()
    seeds = f"{space.seeds} seeds, bars: {CONFIDENCE:.0%} interval" if space.seeds > 1 else "one seed"
    stopped = "; hollow: not all rounds" if any(not cell.finished for cell in cells) else ""
    figure.suptitle(f"What the budget gave: {seeds}{stopped}", fontsize=10)
    save_figure(figure, storage, "sweep.png")


def _line(axes: Axes, cells: Sequence[Cell], name: str, number: int) -> None:
    color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
    done = [cell for cell in cells if cell.finished]
    axes.errorbar(
        [100 * cell.share for cell in done],
        [100 * cell.miou for cell in done],
        yerr=[100 * (cell.interval or 0) for cell in done],
        color=color,
        marker=marker,
        linestyle="--" if name == FLOOR else "-",
        capsize=3,
        label=name,
    )
    for cell in cells:
        if not cell.finished:
            axes.plot(100 * cell.share, 100 * cell.miou, marker, markerfacecolor="none", color=color)
