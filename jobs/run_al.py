"""Run an active-learning experiment.

    python jobs/run_al.py                                      # the embedded default: synthetic street scenes
    python jobs/run_al.py --preset camvid_day_to_dusk --data_root PATH
    python jobs/run_al.py --preset camvid_day_to_dusk --data_root PATH --plan     # hours, regions and storage it takes
    ray job submit --working-dir . -- python jobs/run_al.py --output_dir s3://BUCKET/EXPERIMENT

The same command again continues where it stopped. Exit code 0: finished; 2: something must be mended
first; 3: people must label what a round asks (annotation.oracle files) first.
"""

import sys
from pathlib import Path

from halo_ray.config import parse_config
from halo_ray.context import finished_rounds
from halo_ray.experiment import run_experiment
from halo_ray.job import exit_code
from halo_ray.planning.plan import plan_experiment, plan_text
from halo_ray.results import read_metrics, table
from halo_ray.secret import shown
from halo_ray.storage import Storage

PLAN = "--plan"
PRESETS = Path(__file__).parent / "presets"


def main(arguments: list[str]) -> int:
    return exit_code(lambda: run(arguments))


def run(arguments: list[str]) -> None:
    config = parse_config([argument for argument in arguments if argument != PLAN], PRESETS)
    if PLAN in arguments:
        print(plan_text(plan_experiment(config)))
        return
    if (rounds := finished_rounds(config)) is not None:
        print(f"{shown(config.output_dir)} is finished after {rounds} rounds; nothing is left to do.")
        print(table(read_metrics(Storage(config.output_dir))))
    else:
        print(table(run_experiment(config)))
        print(f"Results: {shown(config.output_dir)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
