"""Look at the data of an experiment before anything is spent on it: the first thing to run on new data.

    python jobs/inspect_data.py --preset camvid_day_to_dusk --data_root PATH/TO/camvid
    python jobs/inspect_data.py --config mine.yaml --json found.json

Prints images, sizes and class shares of each split and every bad record with its reason; draws a bar chart and sample
overlays below OUTPUT_DIR/inspection; --json FILE writes all figures too. All options of run_al.py are understood.
Exit code 0: an experiment could begin; 2: something must be fixed first.
"""

import sys
from argparse import ArgumentError
from pathlib import Path

from halo_ray.arguments import JobParser
from halo_ray.config import parse_config
from halo_ray.data.classes import class_set
from halo_ray.data.manifest import SPLITS, known_labels, list_splits, pool_mask
from halo_ray.data_report import JSON_KEYS, as_json, as_text, check_pictures, write_pictures
from halo_ray.errors import InputError
from halo_ray.job import exit_code
from halo_ray.json_file import check_replaceable, write_json_file
from halo_ray.pipeline import inspect_splits
from halo_ray.root import check_root
from halo_ray.runtime import ray_session
from halo_ray.secret import shown
from halo_ray.storage import Storage

PRESETS = Path(__file__).parent / "presets"


def main(arguments: list[str]) -> int:
    if "--help" in arguments:
        print(__doc__)
    return exit_code(lambda: inspect(arguments))


def inspect(arguments: list[str]) -> None:
    """Inspects, reports, and raises InputError where an experiment could not begin."""
    arguments, file = _json_file(arguments)
    config = parse_config(arguments, PRESETS)
    storage, classes = Storage(config.output_dir), class_set(config.data.class_set)
    check_root(storage, "experiment")
    check_pictures(storage)
    if file is not None:
        check_replaceable(file, JSON_KEYS)
    listed = list_splits(config.data, config.data_root, config.seed)
    storage.check_writable()
    with ray_session(config.execution):
        splits, inspection = inspect_splits(listed, classes, config.execution, known_too=SPLITS)
    print(as_text(inspection, classes))
    if file is not None:
        write_json_file(file, as_json(inspection, classes))
    for name in write_pictures(splits, inspection, classes, storage):
        print(f"{shown(config.output_dir)}/{name}")
    inspection.settle(config.data.on_bad_record)
    known_labels(config.data, config.data_root, splits.pool)
    pool_mask(config.acquisition.never, config.data_root, splits.pool)


def _json_file(arguments: list[str]) -> tuple[list[str], str | None]:
    """The arguments without --json, and what it names."""
    parser = JobParser(add_help=False, exit_on_error=False)
    parser.add_argument("--json")
    try:
        mine, rest = parser.parse_known_args(arguments)
    except ArgumentError as error:
        raise InputError("--json needs the name of a file") from error
    return rest, mine.json


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
