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
from halo_ray.errors import InputError, one_line
from halo_ray.gauges import PROGRESS, Gauges
from halo_ray.inspected import inspect_or_take, with_stored_sizes
from halo_ray.models.build import ModelConfig, located
from halo_ray.opening import open_directory
from halo_ray.results import outdated
from halo_ray.root import begin_root, check_root
from halo_ray.runtime import check_own_process, ray_session
from halo_ray.seals import FEATURES, check_experiment, check_report, committed, lost_answers
from halo_ray.secret import shown
from halo_ray.shared_keys import mask_digest, weights
from halo_ray.stage_order import report_stage
from halo_ray.stages import BEGIN, Stages, marker_file
from halo_ray.storage import Storage, digest_of, round_directory, sealed, sha256
from halo_ray.stored_config import CLASSES, CONFIG, PLAN, signed_config, unsigned_config
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
    with (
        open_directory(config.output_dir, "experiment", config.execution) as storage,
        _opened(config, storage) as context,
    ):
        yield context


@contextmanager
def _opened(config: Config, storage: Storage) -> Iterator[Context]:
    """As open_experiment, in its storage."""
    shared = _shared_directory(config)
    begun = _begun(storage)
    planned = _planned_rounds(storage, config) if begun else []
    if begun:
        check_experiment(storage, config, len(planned))
        for name, data in {**outdated(storage), **lost_answers(storage)}.items():
            storage.write(name, data)
    classes = class_set(config.data.class_set)
    if config.annotation.asks_people:
        class_numbers(classes)  # which must leave room for those of templates
    if begun and storage.unsealed(CLASSES, Stages(storage).read(BEGIN, CLASSES)) != _as_json(classes):
        raise InputError(f"class set {config.data.class_set} is not what {storage.uri} was begun with: restore it")
    # Once it is pretrained, the checkpoint alone describes the network.
    model = config.model if Stages(storage).done("pretrain") else located(config.model)
    splits = list_splits(config.data, config.data_root, config.seed, pool_labels=config.needs_pool_labels)
    with ray_session(config.execution):
        text = config_to_yaml(config)
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
        given = _given(storage, never, model)
        if begun:
            before = Stages(storage).result(BEGIN)
            for name, digest in given.items():
                if before[name] != digest:
                    raise InputError(f"{name} is not what {storage.uri} was begun with: restore it from a copy")
        gauges = Gauges(PROGRESS, shown(storage.uri))
        context = Context(config, storage, splits, classes, plan, never, model, gauges)
        if plan:
            context.sequences(1)  # every id must name one
        if not begun:
            begin_root(storage, "experiment")
            for name in (marker_file(BEGIN), *storage.files("manifests")):  # of a beginning that was given up
                storage.delete(name)
            known = known_labels(config.data, config.data_root, splits.pool)
            save_findings(storage)
            import_known(known, classes, storage, config.execution.block_images)
            storage.commit(CLASSES, sealed(_as_json(classes)))
        files = [CLASSES, *storage.files("manifests"), Ledger.file(0), Ledger.checksum_file(0)]
        experiment = Stages(storage).experiment if begun else _named(config, storage, files)
        if plan != planned or not begun:
            rounds = [asdict(round_plan) for round_plan in plan]
            told = {"experiment": experiment, "budget": config.acquisition.budget, "rounds": rounds}
            storage.write_sealed(PLAN, told)
        signed = signed_config(text, experiment)
        if not begun or storage.read(CONFIG) != signed:
            storage.write(CONFIG, signed)
        if not begun:
            Stages(storage).commit(BEGIN, experiment, given, files, 0.0)
        yield context


def finished_rounds(config: Config) -> int | None:
    """How many rounds the experiment in ``config.output_dir`` has finished; None where there is none or it goes on.

    Raises:
        InputError: the directory holds another experiment.
    """
    storage = Storage(config.output_dir)
    if not check_root(storage, "experiment") or not _begun(storage):
        return None
    planned = _planned_rounds(storage, config)
    last = [report_stage(len(planned)), *([FEATURES] if config.training.cache_features else [])]
    if not all(map(Stages(storage).done, last)) or len(planned) != config.rounds:
        return None
    check_experiment(storage, config, len(planned))
    check_report(storage)
    return None if outdated(storage) or lost_answers(storage) else len(planned)


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
    """Whether a stage is done that took work; before that, a directory is bound to nothing and may be begun anew.

    Raises:
        InputError: stages were done, but their first marker is gone.
    """
    done = set(committed(storage))
    if not done - {BEGIN} and not Ledger(storage).committed(1):
        return False
    if BEGIN not in done:
        raise storage.gone(marker_file(BEGIN))
    return True


def _named(config: Config, storage: Storage, files: list[str]) -> str:
    """What names the experiment: its identity, and the data with which it begins."""
    return digest_of([identity(config), [sha256(storage.read(file)) for file in files]])[:32]


def _given(storage: Storage, never: npt.NDArray[np.bool_] | None, model: ModelConfig) -> dict[str, str]:
    """Names the content of what each run reads from the user's own files, by what an error calls it."""
    found = {"the mask acquisition.never": digest_of(None if never is None else mask_digest(never))}
    if not Stages(storage).done("pretrain"):
        found["what model.backbone or model.pretrained names"] = digest_of(weights(model))
    return found


def _as_json(classes: ClassSet) -> Any:
    return json.loads(json.dumps(asdict(classes)))


def _planned_rounds(storage: Storage, config: Config) -> list[RoundPlan]:
    """The plan of the experiment that lies in ``storage``, if ``config`` means the same one, maybe with more rounds."""
    for name in (CONFIG, PLAN, CLASSES):
        if not storage.exists(name):
            raise storage.gone(name)
    experiment = Stages(storage).experiment
    try:
        text = unsigned_config(storage.read(CONFIG), experiment)
    except ValueError as error:
        raise storage.damaged(CONFIG, one_line(error)) from error
    # Parsing takes half a second, which a sweep has not for each of its trials.
    stored = config if text == config_to_yaml(config) else config_from_yaml(text, f"{storage.uri}/{CONFIG}")
    plan = storage.read_sealed(PLAN)
    if plan.get("experiment") != experiment:
        raise storage.damaged(PLAN, "it is of another experiment")
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
