"""A real S3 protocol server on this machine, for tests and for the benchmark of reading."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

START_SECONDS = 60

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_EC2_METADATA_DISABLED": "true",  # a key that is refused must not be looked for elsewhere for seconds
}
"""The environment that this process and those that it starts need to use the server."""


@dataclass(frozen=True)
class ObjectStore:
    """A bucket of the server."""

    port: int
    bucket: str = "streets"

    def uri(self, path: str, bucket: str | None = None) -> str:
        """How the project names a path in it."""
        options = f"endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"
        return f"s3://{bucket or self.bucket}/{path}?{options}"

    def upload(self, folder: Path, path: str) -> None:
        """Copies all files below a folder."""
        client = self.client()
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                client.upload_file(str(file), self.bucket, f"{path}/{file.relative_to(folder)}")

    def keys(self, prefix: str) -> list[str]:
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def client(self) -> Any:
        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1")


@contextmanager
def object_store(environment: Mapping[str, str] | None = None) -> Iterator[ObjectStore]:
    """A server of its own, whose bucket is the first thing that it is asked for; needs moto[server].

    Args:
        environment: further variables for the server.
    """
    store = ObjectStore(free_port())
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(store.port)]
    server = subprocess.Popen(
        command, env={**os.environ, **(environment or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(store.port, server)
        store.client().create_bucket(Bucket=store.bucket)
        yield store
    finally:
        server.kill()
        server.wait()


def free_port() -> int:
    """A port of this machine that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    """Until the server listens there.

    Raises:
        RuntimeError: it ended, or takes longer than START_SECONDS.
    """
    for _ in range(START_SECONDS * 10):
        with socket.socket() as knock:
            if knock.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the S3 server did not start (exit code {server.poll()}): pip install 'moto[server]'")
