"""Reads an experiment's files: whatever is wrong with one becomes a finding, and the next is read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from halo_ray.errors import InputError, one_line
from halo_ray.patience import StorageError
from halo_ray.storage import DIGEST, Storage
from halo_ray.verification.findings import Findings

T = TypeVar("T")

RESTORE = "restore it from a copy"

MISUNDERSTOOD = (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError, OverflowError)
"""What comes of content that has a right digest and is something else than it should be."""


class Reader:
    """Reads files of a storage; nothing is written.

    A storage that fails for too long (StorageError) ends the verification: that is no fault of the experiment.
    """

    def __init__(self, storage: Storage, findings: Findings) -> None:
        self.storage, self.findings = storage, findings
        self._sealed: dict[str, dict[str, Any] | None] = {}
        self._tree: list[str] | None = None

    def read(self, name: str) -> bytes | None:
        """The content of a file that must be there."""
        return self.tried(name, lambda: self.storage.read(name))

    def json(self, name: str) -> Any:
        """The value of a JSON file that must be there; None where it is no JSON."""
        return self.tried(name, lambda: self.storage.read_json(name))

    def sealed(self, name: str, keys: Sequence[str] | None = None) -> dict[str, Any] | None:
        """The object of a sealed JSON file that must be there, its digest right.

        Args:
            keys: that it has, no more and no less; None: any.
        """
        if name not in self._sealed:
            self._sealed[name] = self._unsealed(name, keys)
        return self._sealed[name]

    def _unsealed(self, name: str, keys: Sequence[str] | None) -> dict[str, Any] | None:
        value = self.tried(name, lambda: self.storage.read_sealed(name))
        if value is None:
            return None
        odd = ", ".join(map(repr, sorted(set(value) ^ set(keys or value))))
        if odd:
            self.findings.add(name, f"is damaged (its keys differ from what they are at {odd}): {RESTORE}")
            return None
        return value

    def checked(self, name: str, *, sealed: bool = True) -> bytes | None:
        """The content of a file that must be there, its checksum file right.

        Args:
            sealed: it must have a checksum file; else it may be missing.
        """
        beside = f"{name}.{DIGEST}"
        data = self.read(name)
        if not self.storage.exists(beside):
            if data is not None and sealed:
                self.findings.add(
                    beside, f"is gone, so that nothing says whether {name} is what was written: {RESTORE}"
                )
            return data
        line = self.read(beside)
        if data is None or line is None:
            return data
        # As sha256sum writes it; its -c reads nothing else.
        if line != f"{hashlib.sha256(data).hexdigest()}  {name.rpartition('/')[2]}\n".encode():
            self.findings.add(name, f"is damaged (its SHA-256 is not that of {beside}): restore both from a copy")
            return None
        return data

    def table(self, name: str, data: bytes | None, schema: pa.Schema) -> pa.Table | None:
        """The table that a Parquet file holds, of that schema."""
        if data is None:
            return None
        # The whole file, not some columns: every page is decoded.
        table = self.tried(name, lambda: pq.ParquetFile(io.BytesIO(data)).read())
        if table is not None and not table.schema.equals(schema):
            odd = sorted(set(map(str, table.schema)) ^ set(map(str, schema))) or ["their order"]
            self.findings.add(name, f"has other columns than it should (different: {', '.join(odd)}): {RESTORE}")
            return None
        return table

    def tried(self, name: str, operation: Callable[[], T]) -> T | None:
        """What ``operation()`` gives of the file ``name``; None, and a finding, where that fails."""
        self.findings.checked["files"] += 1
        try:
            return operation()
        except StorageError:
            raise
        except FileNotFoundError:
            self.findings.add(name, f"is gone: {RESTORE}")
        except InputError as error:
            self.findings.add(name, str(error).removeprefix(f"{self.storage.uri}/{name} "))
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            self.findings.add(name, f"is damaged ({one_line(error)}): {RESTORE}")
        return None

    @contextmanager
    def understanding(self, name: str) -> Iterator[None]:
        """What the body makes of a file's content becomes a finding where that is nothing it can work with."""
        try:
            yield
        except MISUNDERSTOOD as error:
            kind = type(error).__name__
            self.findings.add(name, f"holds something else than it should ({kind}: {one_line(error)}): {RESTORE}")

    def tree(self) -> list[str]:
        """Names of all files, unfinished ones too, sorted; listed once."""
        if self._tree is None:
            self._tree = self.storage.tree("")
        return self._tree
