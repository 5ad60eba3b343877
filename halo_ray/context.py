"""Open an experiment: what every stage of it is given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from halo_ray.acquisition.budget import RoundPlan, capped_sequences, plan_budget, room
from halo_ray.acquisition.threshold import Sequences
from halo_ray.annotations.folder import class_numbers
from halo_ray.annotations.known import import_known
from halo_ray.annotations.ledger import Ledger
from halo_ray.cluster import device_of, training_workers, uses_gpu
from halo_ray.config import Config, config_from_yaml, config_to_yaml, identity
from halo_ray.data.classes import ClassSet, class_set
from halo_ray.data.manifest import (
    Splits,
    known_labels,
    list_splits,
    local_files,
    pool_mask,
    sizes,
)
from halo_ray.errors import InputError
from halo_ray.gauges import PROGRESS, Gauges
from halo_ray.inspected import inspect_or_take, with_stored_sizes
from halo_ray.lock import locked
from halo_ray.models.build import ModelConfig, located
from halo_ray.runtime import check_own_process, ray_session
from halo_ray.secret import redacted
from halo_ray.stages import Stages
from halo_ray.storage import Storage, round_directory
from halo_ray.stored_config import CLASSES, CONFIG, PLAN
from halo_ray.training.config import check_workers
from halo_ray.visibility import check_shared


@dataclass(frozen=True)
class Context:
    """An opened experiment: its configuration, its storage, and the data it runs on."""

    config: Config
    """As it was given, but that execution.device is cpu or cuda."""
    storage: Storage
    splits: Splits
    classes: ClassSet
    plan: list[RoundPlan]
    never: npt.NDArray[np.bool_] | None
    """(H, W): where in a pool image nothing is ever picked."""
    model: ModelConfig
    """config.model with its files by absolute path, since processes run in directories of their own."""
    gauges: Gauges
    """What Ray's metrics endpoint shows of it; PROGRESS."""

    @property
    def functions(self) -> tuple[str, ...]:
        """The acquisition function that buys, then those that are only compared with it."""
        own = self.config.acquisition.function
        return own, *(name for name in self.config.execution.compare_functions if name != own)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the network's input."""
        return self.config.data.height, self.config.data.width

    def sequences(self, number: int) -> Sequences | None:
        """The sequences of the pool's images and what a round may buy of each; None where they have no cap.

        Raises:
            InputError: an image id does not match acquisition.sequence.
        """
        pool = self.splits.pool
        plan = self.plan[number - 1]
        return capped_sequences(self.config.acquisition, pool["image_id"].to_pylist(), sizes(pool), plan)


@contextmanager
def open_experiment(config: Config) -> Iterator[Context]:
    """Begins or resumes the experiment in ``config.output_dir``, connected to Ray while the body runs.

    Nothing is written before the configuration, the data and the cluster were found usable.

    Raises:
        InputError: one of them is not, or the directory holds another experiment.
    """
    storage = Storage(config.output_dir, config.execution.storage_seconds)
    storage.check_writable()
    with locked(storage, config.execution.lock_seconds) as held, _opened(config, held) as context:
        yield context


@contextmanager
def _opened(config: Config, storage: Storage) -> Iterator[Context]:
    """As open_experiment, in its storage."""
    shared = _shared_directory(config)
    begun = _begun(storage)
    if not begun and Ledger(storage).committed(1):
        raise InputError(
            f"{storage.uri} holds labels that were bought, but its stages/ are gone: restore them, or name another "
            "output_dir"
        )
    planned = _planned_rounds(storage, config) if begun else []
    classes = class_set(config.data.class_set)
    if config.annotation.asks_people:
        class_numbers(classes)  # which must leave room for those of templates
    if begun and storage.read_sealed(CLASSES) != _as_json(classes):
        raise InputError(f"class set {config.data.class_set} is not what {storage.uri} was begun with: restore it")
    # Once it is pretrained, the checkpoint alone describes the network.
    model = config.model if Stages(storage).done("pretrain") else located(config.model)
    splits = list_splits(config.data, config.data_root, config.seed, pool_labels=config.needs_pool_labels)
    with ray_session(config.execution):
        text = config_to_yaml(config).encode()
        # Decided once: while a cluster grows and shrinks it would be now this and now that.
        config = replace(config, execution=replace(config.execution, device=device_of(config.execution)))
        check_own_process(config.execution)
        check_shared(storage, config.execution, [*local_files(splits), *shared])
        if begun:
            splits = with_stored_sizes(splits, storage)
        else:
            splits, save_findings = inspect_or_take(config, splits, classes)
        check_workers(
            config.training,
            training_workers(config.execution, config.training.batches, config.most_workers),
            has_source=config.has_source,
            two_sizes=uses_gpu(config.execution)
            and config.model.has_live_norms
            and config.data.source_size != (config.data.height, config.data.width),
        )
        plan = planned
        if len(planned) < config.rounds:
            pool = sizes(splits.pool)
            plan = plan_budget(config.acquisition, pool, planned)
            _say_what_is_too_much(plan, room(config.acquisition, pool))
        never = pool_mask(config.acquisition.never, config.data_root, splits.pool)
        gauges = Gauges(PROGRESS, redacted(storage.uri))
        context = Context(config, storage, splits, classes, plan, never, model, gauges)
        if plan:
            context.sequences(1)  # every id must name one
        if not begun:
            known = known_labels(config.data, config.data_root, splits.pool)
            save_findings(storage)
            import_known(known, classes, storage, config.execution.block_images)
            storage.write_sealed(CLASSES, _as_json(classes))
        if plan != planned or not begun:
            rounds = [asdict(round_plan) for round_plan in plan]
            storage.write_sealed(PLAN, {"budget": config.acquisition.budget, "rounds": rounds})
        if not storage.exists(CONFIG) or storage.read(CONFIG) != text:
            storage.write(CONFIG, text)
        yield context


def finished_rounds(config: Config) -> int | None:
    """How many rounds the experiment in ``config.output_dir`` has finished; None where there is none or it goes on.

    Raises:
        InputError: the directory holds another experiment.
    """
    storage = Storage(config.output_dir)
    if not _begun(storage):
        return None
    planned = _planned_rounds(storage, config)
    done = Stages(storage).done(report_stage(len(planned)))
    return len(planned) if done and len(planned) == config.rounds else None


def report_stage(rounds: int) -> str:
    """The stage that ends an experiment of so many rounds."""
    return f"report-{rounds}"


def _shared_directory(config: Config) -> list[str]:
    """The directory of shared stages where it is a local one, which can be written to.

    Raises:
        InputError: it cannot.
    """
    if config.execution.shared_stages is None:
        return []
    storage = Storage(config.execution.shared_stages)
    storage.check_writable("execution.shared_stages")
    return [storage.root] if storage.local else []


def _say_what_is_too_much(plan: list[RoundPlan], most: int) -> None:
    wanted = sum(each.regions for each in plan)
    if wanted > most:
        print(
            f"acquisition.budget asks for {wanted} regions, but the pool has room for {most} at most: all that can be "
            "picked will be bought",
            flush=True,
        )


def _begun(storage: Storage) -> bool:
    """Whether a stage is done; before that, a directory is bound to nothing and may be begun anew."""
    return storage.exists("stages")


def _as_json(classes: ClassSet) -> Any:
    return json.loads(json.dumps(asdict(classes)))


def _planned_rounds(storage: Storage, config: Config) -> list[RoundPlan]:
    """The plan of the experiment that lies in ``storage``, if ``config`` means the same one, maybe with more rounds."""
    for name in (CONFIG, PLAN, CLASSES):
        if not storage.exists(name):
            raise storage.gone(name)
    stored = config_from_yaml(storage.read(CONFIG), f"{storage.uri}/{CONFIG}")
    plan = storage.read_sealed(PLAN)
    try:
        planned, budget = [RoundPlan(**entry) for entry in plan["rounds"]], plan["budget"]
    except (KeyError, TypeError) as error:
        raise storage.damaged(PLAN, "it is no plan") from error
    # The plan says what the experiment may spend; a run killed while it was extended leaves config.yaml behind it.
    spend = {"acquisition.rounds": len(planned), "acquisition.budget": budget} if config.rounds else {}
    before, now = identity(stored) | spend, identity(config)
    steps = "training.round_steps"
    if _extends(now[steps], before[steps], len(planned)):
        before[steps] = now[steps]
    different = sorted(key for key in now if now[key] != before[key])
    if config.rounds > len(planned) and Stages(storage).done(f"{round_directory(len(planned))}/record"):
        if config.acquisition.budget <= budget:
            raise InputError(
                f"acquisition.rounds asks for {config.rounds - len(planned)} more rounds of a finished "
                f"experiment, whose budget is spent: raise acquisition.budget above {budget} too"
            )
        different = [key for key in different if key not in spend]
    if different:
        raise InputError(
            f"{storage.uri} holds another experiment, with other {', '.join(different)} "
            f"(there {', '.join(str(before[key]) for key in different)}): name another output_dir or change them back"
        )
    return planned


def _extends(now: int | list[int], before: int | list[int], rounds: int) -> bool:
    """Whether the steps of ``rounds`` rounds are what they were; there may be more rounds."""
    longer, known = ([steps] * rounds if isinstance(steps, int) else steps for steps in (now, before))
    return longer[: len(known)] == known
