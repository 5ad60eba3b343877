"""Measure what this machine gets, as ratios taken in one process.

python jobs/benchmark.py model                     # geometry and networks; about 2 minutes on two cores
python jobs/benchmark.py model --device cuda
"""

import sys

import jsonargparse

from halo_ray.benchmarks.model import ModelBenchmark, benchmark_model
from halo_ray.errors import InputError


def main(arguments: list[str]) -> int:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    try:
        settings = jsonargparse.auto_cli({"model": ModelBenchmark}, args=arguments)
        for line in benchmark_model(settings):
            print(line, flush=True)
        return 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
