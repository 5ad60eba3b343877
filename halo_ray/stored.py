"""What an experiment has stored, for those who read it without running it; what is wrong with a file is said."""

from __future__ import annotations

import pyarrow as pa

from halo_ray.data.classes import ClassSet, stored_class_set
from halo_ray.data.manifest import list_splits, load_split
from halo_ray.errors import InputError, one_line
from halo_ray.inspected import with_stored_sizes
from halo_ray.patience import StorageError
from halo_ray.stages import BEGIN, Stages
from halo_ray.storage import Storage
from halo_ray.stored_config import CLASSES, CONFIG, StoredConfig, read_stored_config, unsigned_config


def stored_config(storage: Storage) -> tuple[StoredConfig, str]:
    """The configuration, and its text.

    Raises:
        InputError: it is gone or damaged.
    """
    try:
        data = storage.read(CONFIG)
        return read_stored_config(data), unsigned_config(data, Stages(storage).experiment)
    except FileNotFoundError as error:
        raise storage.gone(CONFIG) from error
    except StorageError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise storage.damaged(CONFIG, one_line(error)) from error


def stored_classes(storage: Storage) -> ClassSet:
    """The class set.

    Raises:
        InputError: it is gone or damaged.
    """
    try:
        return stored_class_set(storage.unsealed(CLASSES, Stages(storage).read(BEGIN, CLASSES)))
    except StorageError:
        raise
    except (InputError, KeyError, TypeError) as error:
        raise storage.damaged(CLASSES, error) from error


def stored_pool(storage: Storage, data_root: str | None = None) -> pa.Table:
    """The manifest of the pool.

    Args:
        data_root: directory or URI where its images lie now; None: where they lay when it was begun, without the
            credentials that may have stood there.

    Raises:
        InputError: the manifest is gone or damaged, or other images lie below ``data_root``.
    """
    if data_root is None:
        return load_split(storage, "pool")
    config = stored_config(storage)[0].config
    return with_stored_sizes(list_splits(config.data, data_root, config.seed, pool_labels=False), storage).pool
