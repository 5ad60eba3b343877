"""Answer what a round asks people (annotation.oracle files) in the browser.

    python jobs/annotate.py runs/mine
    python jobs/annotate.py s3://BUCKET/EXPERIMENT --host 0.0.0.0 --port 8000      # for others on a network you trust

Prints the address, whose token lets people in; several may answer at once. Every answer is stored before the next
region is shown, so it may be ended or killed at any time and started again. Then the command of the run goes on.
Exit code 0: ended with Ctrl+C or SIGTERM; 2: something must be fixed first, or nothing is asked.
"""

import os
import sys

from halo_ray.annotations.serve import TOKEN, serve
from halo_ray.arguments import JobParser
from halo_ray.job import exit_code


def main(arguments: list[str]) -> int:
    parser = JobParser(description=__doc__)
    parser.add_argument("experiment", help="directory or URI of an experiment, its output_dir")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; the default is this machine alone")
    parser.add_argument("--port", type=int, default=0, help="port to listen at; 0: any that is free")
    parser.add_argument("--data_root", help="directory or URI where the images lie now, if not where they lay then")
    parser.epilog = f"The environment variable {TOKEN} sets the token; by default each start makes a new one."
    options = parser.parse_args(arguments)
    token = os.environ.get(TOKEN)
    return exit_code(lambda: serve(options.experiment, options.host, options.port, token, options.data_root))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
