"""Names of what a report consists of."""

REPORT = "report"
"""The directory of an experiment's own report."""

PAGE, FILES = "index.html", "files.json"
"""In the directory of a report: FILES names its experiments, and the SHA-256 of all other files; written first."""
