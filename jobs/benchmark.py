"""Measure what this machine gets, as ratios taken in one process.

python jobs/benchmark.py all --json out.json       # everything below but plan, and one table; 40 minutes on two cores
python jobs/benchmark.py model                     # geometry and networks; about 2 minutes on two cores
python jobs/benchmark.py acquisition               # maps and picks, against the official procedure; about 3 minutes
python jobs/benchmark.py scoring                   # a pool through Ray Data, against a plain loop; 2 minutes
python jobs/benchmark.py selection                 # the cut of 10^9 candidates, the messages of 10^6 images; 10 minutes
python jobs/benchmark.py data                      # training samples against bare Pillow, and from S3; 2 minutes
python jobs/benchmark.py train                     # the training loop and step, against bare and official; 10 minutes
python jobs/benchmark.py sweep                     # a sweep, against its trials one after another; 7 minutes
python jobs/benchmark.py plan --data_root PATH     # the planner, against the run of the CamVid preset; 20 minutes
python jobs/benchmark.py model --device cuda
"""

import sys

import jsonargparse

from halo_ray.benchmarks.all import BENCHMARKS, AllBenchmarks, benchmark_all
from halo_ray.job import exit_code

EVERY = {"all": (AllBenchmarks, benchmark_all), **BENCHMARKS}


def main(arguments: list[str]) -> int:
    return exit_code(lambda: measure(arguments))


def measure(arguments: list[str]) -> None:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    settings = jsonargparse.auto_cli({name: kind for name, (kind, _) in EVERY.items()}, args=arguments)
    benchmark = next(function for kind, function in EVERY.values() if isinstance(settings, kind))
    for line in benchmark(settings):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
