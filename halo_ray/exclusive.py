"""Create an object that must not exist yet, or replace one that must be as it was: exactly one writer succeeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow.fs as pafs

from halo_ray.errors import InputError
from halo_ray.place import parse


def create_object(uri: str, filesystem: pafs.FileSystem, path: str, data: bytes) -> None:
    """Puts an object on the condition that there is none, which pyarrow cannot.

    Args:
        uri: any URI in the same store; says how it is reached.
        filesystem: pyarrow's for that URI.
        path: bucket and key.

    Raises:
        FileExistsError: it is there already.
        OSError: the store refuses.
        InputError: a store without such a condition.
    """
    import obstore  # object stores alone need it

    bucket, _, key = path.partition("/")
    try:
        obstore.put(_store(uri, filesystem, bucket), key, data, mode="create")
    except obstore.exceptions.AlreadyExistsError as error:
        raise FileExistsError(f"{path} exists already") from error
    except (obstore.exceptions.BaseError, FileNotFoundError) as error:
        raise OSError(str(error).partition(": <?xml")[0].splitlines()[0]) from error


def replace_object(
    uri: str, filesystem: pafs.FileSystem, path: str, data: bytes, found: bytes, check: Callable[[], None]
) -> None:
    """Puts an object in the place of one that still holds ``found``; nothing happens where it does not.

    Args:
        uri, filesystem, path: as for create_object.
        check: called between the look at the object and the change.

    Raises:
        OSError: the store refuses.
    """
    import obstore

    bucket, _, key = path.partition("/")
    store = _store(uri, filesystem, bucket)
    try:
        there = obstore.get(store, key)
        if bytes(there.bytes()) != found:
            return
        check()
        version = {key: there.meta[key] for key in ("e_tag", "version") if there.meta[key] is not None}
        obstore.put(store, key, data, mode=version)
    except (obstore.exceptions.PreconditionError, FileNotFoundError):
        return  # another one was first
    except obstore.exceptions.BaseError as error:
        raise OSError(str(error).partition(": <?xml")[0].splitlines()[0]) from error


def _store(uri: str, filesystem: pafs.FileSystem, bucket: str) -> Any:
    """The client for a bucket, given what pyarrow takes from the same URI."""
    from obstore.store import GCSStore, S3Store

    place = parse(uri)
    options = place.options
    if place.scheme in ("gs", "gcs"):
        return GCSStore(bucket, skip_signature=place.user == "anonymous")
    if place.scheme != "s3":
        raise InputError(
            f"{place.shown}: two writers could not be told apart on a {place.scheme} store: use a directory, s3:// or "
            "gs://"
        )
    settings: dict[str, Any] = {"region": filesystem.region}
    if "endpoint_override" in options:
        scheme = options.get("scheme", "https")
        settings["endpoint"] = f"{scheme}://{options['endpoint_override']}"
        settings["client_options"] = {"allow_http": scheme == "http"}
    if place.user:
        settings |= {"access_key_id": place.user, "secret_access_key": place.password or ""}
    else:
        from obstore.auth.boto3 import Boto3CredentialProvider

        # The same places as pyarrow looks in: environment, profiles, roles of pods and machines.
        settings["credential_provider"] = Boto3CredentialProvider()
    return S3Store(bucket, **settings)
