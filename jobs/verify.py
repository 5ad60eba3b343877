"""Check an experiment: every checksum, marker, count and invariant of it.

    python jobs/verify.py runs/demo
    python jobs/verify.py s3://BUCKET/EXPERIMENT

Nothing is written and no Ray is needed; a run may be working on it meanwhile. Every line names a file of the experiment
and what is wrong with it; notes are no faults. Exit code 0: everything is right; 1: something is wrong; 2: there is no
experiment, or it cannot be read.
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter

from halo_ray.job import exit_code
from halo_ray.secret import redacted
from halo_ray.verification.findings import Findings
from halo_ray.verification.verify import verify_experiment


def main(arguments: list[str]) -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("experiment", help="directory or URI of an experiment, its output_dir")
    options = parser.parse_args(arguments)
    found: list[Findings] = []
    return exit_code(lambda: found.append(verify(options.experiment))) or int(any(each.wrong for each in found))


def verify(experiment: str) -> Findings:
    """Verifies an experiment and says what was found."""
    findings = verify_experiment(experiment)
    for kind, lines in (("wrong", findings.wrong), ("note", findings.notes)):
        for line in lines:
            print(redacted(f"{kind}: {line}"))
    print(redacted(f"{experiment}: {findings.summary()}"))
    return findings


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
