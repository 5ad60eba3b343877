"""Command lines of the jobs, whose values may hold credentials."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import IO

from halo_ray.place import is_uri
from halo_ray.secret import known, redacted


class JobParser(ArgumentParser):
    """A parser that prints no credentials, whatever it quotes of a command line that it refuses."""

    def __init__(self, description: str | None = None, *, add_help: bool = True, exit_on_error: bool = True) -> None:
        super().__init__(
            description=description,
            formatter_class=RawDescriptionHelpFormatter,
            add_help=add_help,
            allow_abbrev=False,
            exit_on_error=exit_on_error,
        )

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str], namespace: Namespace | None = None
    ) -> tuple[Namespace, list[str]]:
        remember(args)
        return super().parse_known_args(args, namespace)

    def _print_message(self, message: str, file: IO[str] | None = None) -> None:  # type: ignore[override]
        super()._print_message(redacted(message), file)


def remember(arguments: Sequence[str]) -> None:
    """From now on the credentials of all places on a command line are hidden, in whatever option they stand."""
    for argument in arguments:
        known(argument if is_uri(argument) else argument.partition("=")[2])
