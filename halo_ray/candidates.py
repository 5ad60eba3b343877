"""Files of candidate regions: what a row holds, and how the coordinator and its tasks read them.

Imported by the coordinator's process, which stays small: nothing here needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from halo_ray.acquisition.threshold import Candidates
from halo_ray.storage import Storage

CANDIDATES = pa.schema(
    [
        ("image_id", pa.string()),
        ("row", pa.uint32()),
        ("rank", pa.uint32()),
        ("score", pa.float32()),
        ("y", pa.uint16()),
        ("x", pa.uint16()),
        ("radius", pa.float32()),
        ("entropy", pa.float32()),
        ("guess", pa.uint8()),
        ("probability", pa.float32()),
        ("function", pa.string()),
    ]
)
"""One row per candidate region; ``row`` is the image's row in the pool's manifest, ``rank`` how many candidates of the
image were picked before this one, y and x are pixels of the region's centre at label resolution. Stored in a directory
for each acquisition function."""


@dataclass(frozen=True)
class ReadCandidates:
    """Reads what the global cut needs of a file of candidates, in whatever process."""

    storage_uri: str

    def __call__(self, path: str) -> Candidates:
        table = pq.read_table(path, filesystem=Storage(self.storage_uri).filesystem, columns=["score", "row"])
        return Candidates(table["score"].to_numpy(), table["row"].to_numpy())
