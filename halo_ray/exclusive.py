"""Create an object that must not exist yet: of several writers exactly one succeeds."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow.fs as pafs

from halo_ray.errors import InputError


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


def _store(uri: str, filesystem: pafs.FileSystem, bucket: str) -> Any:
    """The client for a bucket, given what pyarrow takes from the same URI."""
    from obstore.store import GCSStore, S3Store

    parts = urlsplit(uri)
    options = dict(parse_qsl(parts.query))
    if parts.scheme in ("gs", "gcs"):
        return GCSStore(bucket, skip_signature=parts.username == "anonymous")
    if parts.scheme != "s3":
        raise InputError(
            f"{uri}: two writers could not be told apart on a {parts.scheme} store: use a directory, s3:// or gs://"
        )
    settings: dict[str, Any] = {"region": filesystem.region}
    if "endpoint_override" in options:
        scheme = options.get("scheme", "https")
        settings["endpoint"] = f"{scheme}://{options['endpoint_override']}"
        settings["client_options"] = {"allow_http": scheme == "http"}
    if parts.username:
        settings |= {"access_key_id": unquote(parts.username), "secret_access_key": unquote(parts.password or "")}
    else:
        from obstore.auth.boto3 import Boto3CredentialProvider

        # The same places as pyarrow looks in: environment, profiles, roles of pods and machines.
        settings["credential_provider"] = Boto3CredentialProvider()
    return S3Store(bucket, **settings)
