"""Other content in the files of a copied experiment, as if it had been written so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml
from damage import remark

from halo_ray.results import derived, recorded
from halo_ray.stages import BEGIN, Stages
from halo_ray.storage import Storage, round_directory
from halo_ray.stored_config import CONFIG, signed_config, unsigned_config

Row = dict[str, Any]


def rewrite_config(storage: Storage, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the tree of config.yaml in place."""
    tree = yaml.safe_load(unsigned_config(storage.read(CONFIG)))
    change(tree)
    text = yaml.safe_dump(tree, sort_keys=False)
    storage.write(CONFIG, signed_config(text, Stages(storage).experiment))


def rewrite_records(storage: Storage, change: Callable[[list[Row]], list[Row]]) -> None:
    """Changes the records of all rounds; those that are missing then were never made."""
    before = recorded(Stages(storage))
    rows = change(before)
    for number in range(len(before)):
        name = f"stages/{round_directory(number)}/record.json"
        if number >= len(rows):
            storage.delete(name)
            continue
        storage.write_sealed(name, {**storage.read_sealed(name), "result": rows[number]})
    for name, data in derived(rows).items():
        storage.write(name, data)


def rewrite_table(storage: Storage, name: str, table: Any) -> None:
    """Puts another table in the place of one that a marker seals."""
    storage.write_checked_table(name, table)
    for file in (name, f"{name}.sha256"):
        remark(storage, file)


def begin_stages(storage: Storage) -> Storage:
    """Makes a directory one in which stages can be done."""
    Stages(storage).commit(BEGIN, "test", {}, [], 0.0)
    return storage
