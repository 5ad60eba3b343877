"""The stored features of an experiment: whether those of every image are there; what is lost is computed anew."""

from __future__ import annotations

import pyarrow as pa

from halo_ray.data.features import feature_file
from halo_ray.data.listing import MANIFEST
from halo_ray.data.manifest import SPLITS
from halo_ray.features import STAGE
from halo_ray.seals import broken_features
from halo_ray.stages import marker_file
from halo_ray.verification.manifests import manifest_file
from halo_ray.verification.subject import Subject


def check_features(subject: Subject) -> None:
    """Checks every file; features that lie in a shared directory are not looked at."""
    result = subject.result(STAGE)
    if result is None:
        return
    with subject.reader.understanding(marker_file(STAGE)):
        if result["shared"]:
            subject.findings.note(marker_file(STAGE), elsewhere(result["shared"]))
            return
        result = {"key": str(result["key"])}
    storage = subject.reader.storage
    for split in SPLITS:
        name = manifest_file(split)
        if not storage.exists(name):
            continue
        table: pa.Table | None = subject.reader.table(name, subject.reader.read(name), MANIFEST)
        if table is None:
            continue
        there = set(storage.files(f"features/{split}"))
        expected = {feature_file(split, each, side) for each in table["image_id"].to_pylist() for side in (False, True)}
        if missing := sorted(expected - there):
            subject.findings.add(
                f"features/{split}",
                f"{len(missing)} files are gone, first {missing[0]}: delete {marker_file(STAGE)}, so that all are "
                "computed anew",
            )
        for file, what in broken_features(storage, sorted(expected & there), result["key"]):
            subject.findings.add(file, f"{what}: delete {marker_file(STAGE)}, so that all are computed anew")


def elsewhere(entry: object) -> str:
    """What is noted of features that lie in a shared directory."""
    return f"features lie in {entry}, which was not checked"
