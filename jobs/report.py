"""Write the report of an experiment, or of several beside each other: one page, and its pictures as PNG files.

    python jobs/report.py runs/demo                                        # to runs/demo/report
    python jobs/report.py runs/halo-s0 runs/halo-s1 runs/random-s0 --out runs/compared
    python jobs/report.py runs/sweep                                       # all trials of a sweep, to runs/sweep/report

Experiments that differ in their seed alone are one line, with the interval of its mean. They may be unfinished, and a
run may be working on them. Every run writes its own report when it ends; this one needs no Ray. Exit code 0: it is
written, the last line says where; 2: something must be mended first.
"""

import sys

from halo_ray.arguments import JobParser
from halo_ray.job import exit_code
from halo_ray.report.write import report
from halo_ray.secret import shown


def main(arguments: list[str]) -> int:
    parser = JobParser(description=__doc__)
    parser.add_argument(
        "experiment", nargs="+", help="directory or URI of an experiment, its output_dir, or of a sweep"
    )
    parser.add_argument("--out", help="directory or URI to write to; needed where more than one is named")
    parser.add_argument("--data_root", help="directory or URI where the images lie now, if not where they lay then")
    parser.add_argument(
        "--own_functions", action="store_true", help="import acquisition functions that experiments name: their code"
    )
    options = parser.parse_args(arguments)

    def work() -> None:
        page = report(options.experiment, options.out, own_functions=options.own_functions, data_root=options.data_root)
        print(f"Report: {shown(page)}")

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
