"""Sweep curvature, budget and acquisition function: every combination is an experiment, on Ray Tune.

    python jobs/sweep.py --preset tiny --curvature 0.5 1 --budget 0.005 0.01 --acquisition halo entropy --seeds 2
    python jobs/sweep.py --preset camvid_day_to_dusk --data_root PATH --curvature 0.1 0.5 1 2 \\
        --budget 0.0001 0.0004 0.002 --acquisition halo entropy random --seeds 3 --output_dir runs/sweep
    python jobs/sweep.py --preset evidence_camvid --data_root PATH --model.backbone PATH      # a study of variants
    ray job submit --working-dir . -- python jobs/sweep.py ... --output_dir s3://BUCKET/SWEEP

Random is always among the functions, and seeds are the same everywhere, so that differences to it are paired. What
trials have in common (inspection, features, pretraining of a curvature and seed, its first scoring pass) is computed
once. The same command again continues where it stopped. OUTPUT_DIR/trials holds the experiments; results.csv,
results.json and sweep.png say what they found.

--study FILE tries named variants of any settings instead: see jobs/presets/studies. Those of a preset's name belong to
it and are taken where nothing else says what to try. What they found stands in results.json, results.txt and study.png.

All options of run_al.py are understood. Exit code 0: all trials are done; 2: something must be mended first, one
sentence says what.
"""

import sys
from argparse import ArgumentError, Namespace
from dataclasses import replace
from pathlib import Path

from halo_ray.arguments import JobParser
from halo_ray.config import parse_config
from halo_ray.errors import InputError
from halo_ray.job import exit_code
from halo_ray.place import parse
from halo_ray.secret import shown
from halo_ray.sweep.results import table
from halo_ray.sweep.run import run_study, run_sweep
from halo_ray.sweep.space import SearchSpace
from halo_ray.sweep.study import read_study
from halo_ray.sweep.study_results import study_text
from halo_ray.sweep.trials import SweepConfig

PRESETS = Path(__file__).parent / "presets"


def main(arguments: list[str]) -> int:
    return exit_code(lambda: sweep(arguments))


def sweep(arguments: list[str]) -> None:
    options, rest = _parse(arguments)
    if any(option.partition("=")[0] == "--seed" for option in rest):
        raise InputError("--seed means nothing to a sweep, whose seeds are 0, 1, ...: say how many with --seeds")
    base = parse_config(rest, PRESETS)
    if not any(option.partition("=")[0] == "--output_dir" for option in rest):
        place = parse(base.output_dir)
        path = place.path.rstrip("/")
        beside = f"{path}-sweep" if path else "/sweep"  # a suffix would name another bucket
        base = replace(base, output_dir=place.with_path(beside))  # in output_dir itself, an experiment may lie
    how = SweepConfig(options.scheduler, options.max_concurrent_trials)
    if (file := _study(options, rest)) is not None:
        study = read_study(file, base)
        print(f"{len(study.points())} trials in {shown(base.output_dir)}", flush=True)
        print(study_text(run_study(base, study, how)))
        print(f"Results: {shown(base.output_dir)}")
        return
    seeds = 1 if options.seeds is None else options.seeds
    space = SearchSpace.of(base, options.curvature, options.budget, options.acquisition, seeds)
    print(f"{len(space.points())} trials in {shown(base.output_dir)}", flush=True)
    cells = run_sweep(base, space, how)
    print(table(cells, space))
    print(f"Results: {shown(base.output_dir)}")


def _study(options: Namespace, rest: list[str]) -> Path | None:
    """The file that says what to try; None where the options do."""
    crossed = [
        key for key in ("curvature", "budget", "acquisition", "seeds") if getattr(options, key) not in (None, [])
    ]
    if options.study is not None and crossed:
        raise InputError(f"--study {options.study} says what is tried, and --{crossed[0]} too: leave one of them out")
    if crossed:
        return None
    parser = JobParser(add_help=False)
    parser.add_argument("--preset", action="append", default=[])
    presets = parser.parse_known_args(rest)[0].preset
    own = [file for preset in presets if (file := PRESETS / "studies" / f"{preset}.yaml").is_file()]
    file = Path(options.study) if options.study is not None else own[0] if own else None
    if file is not None and options.scheduler != "fifo":
        raise InputError(f"study {file} says what is tried, and --scheduler too: leave one of them out")
    return file


def _parse(arguments: list[str]) -> tuple[Namespace, list[str]]:
    """The options of a sweep, and those of run_al.py."""
    parser = JobParser(description=__doc__, exit_on_error=False)
    parser.add_argument("--curvature", type=float, nargs="+", default=[], help="values of model.curvature")
    parser.add_argument("--budget", type=float, nargs="+", default=[], help="values of acquisition.budget")
    parser.add_argument("--acquisition", nargs="+", default=[], help="acquisition functions; random is added")
    parser.add_argument("--seeds", type=int, help="how many seeds: 0, 1, ...; default: 1")
    parser.add_argument("--study", help="YAML file with variants of any settings, and tables of them")
    parser.add_argument("--scheduler", choices=("fifo", "asha"), default="fifo", help="asha stops poor trials")
    parser.add_argument("--max_concurrent_trials", type=int, help="default: as many as GPUs or CPUs have room for")
    try:
        return parser.parse_known_args(arguments)
    except ArgumentError as error:
        raise InputError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
