"""Check an experiment, a sweep or a study: every checksum, marker, count and invariant of it.

    python jobs/verify.py runs/demo
    python jobs/verify.py s3://BUCKET/SWEEP

Of a sweep or study its own files are checked, what its trials share, and every trial. Nothing is written and no Ray is
needed; a run may be working on it meanwhile. Every line names a file and what is wrong with it; notes are no faults.
Exit code 0: everything is right; 1: something is wrong; 2: there is nothing of ours, or it cannot be read.
"""

import sys

from halo_ray.arguments import JobParser
from halo_ray.job import exit_code
from halo_ray.secret import redacted, shown
from halo_ray.verification.findings import Findings
from halo_ray.verification.sweeps import verify_directory


def main(arguments: list[str]) -> int:
    parser = JobParser(description=__doc__)
    parser.add_argument("experiment", help="directory or URI of an experiment, sweep or study, its output_dir")
    options = parser.parse_args(arguments)
    found: list[Findings] = []
    return exit_code(lambda: found.append(verify(options.experiment))) or int(any(each.wrong for each in found))


def verify(experiment: str) -> Findings:
    """Verifies what lies in a directory and says what was found."""
    findings = verify_directory(experiment)
    for kind, lines in (("wrong", findings.wrong), ("note", findings.notes)):
        for line in lines:
            print(redacted(f"{kind}: {line}"))
    print(redacted(f"{shown(experiment)}: {findings.summary()}"))
    return findings


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
