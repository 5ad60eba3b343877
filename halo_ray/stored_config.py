"""Read the configuration that an experiment has stored, as data: what it names is neither imported nor opened."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from halo_ray.acquisition.budget import AcquisitionConfig
from halo_ray.annotations.oracles import GROUND_TRUTH
from halo_ray.config import Config, config_from_yaml
from halo_ray.errors import InputError, one_line
from halo_ray.storage import sha256
from halo_ray.yaml_text import load_yaml

CONFIG, PLAN, CLASSES = "config.yaml", "plan.json", "classes.json"
"""What an experiment stores of itself when it begins."""

_HEAD = "# Stored by halo_ray, not to be edited: "


@dataclass(frozen=True)
class StoredConfig:
    """A stored configuration, and what may stand there for code of a user's own."""

    config: Config
    """With defaults for the names below."""
    function: str
    """acquisition.function: what buys."""
    oracle: str
    """annotation.oracle: who labels."""


def signed_config(text: str, experiment: str) -> bytes:
    """The content of config.yaml: a configuration under a digest, and the experiment that it is of."""
    return f"{_HEAD}{experiment} {_digest(text, experiment)}\n{text}".encode()


def unsigned_config(data: bytes, experiment: str | None = None) -> str:
    """The configuration that signed_config put under a digest.

    Args:
        experiment: of which it must be; None: of any.

    Raises:
        ValueError: it was edited or damaged, or is of another experiment.
    """
    owner, text = _parts(data)
    if experiment not in (None, owner):
        raise ValueError("it is of another experiment")
    return text


def config_owner(data: bytes) -> str:
    """The experiment that the content of config.yaml is of.

    Raises:
        ValueError: it was edited or damaged.
    """
    return _parts(data)[0]


def _parts(data: bytes) -> tuple[str, str]:
    head, _, text = data.decode().partition("\n")
    owner = head.removeprefix(_HEAD).partition(" ")[0]
    if signed_config(text, owner) != data:
        raise ValueError("it is not what was written; give other settings to the job, in place of editing it")
    return owner, text


def _digest(text: str, experiment: str) -> str:
    return sha256(f"{experiment}\n{text}".encode())


def read_stored_config(data: bytes) -> StoredConfig:
    """What config.yaml holds.

    Raises:
        ValueError: it was edited, or is no configuration; KeyError, TypeError or AttributeError for some that lack what
            all have.
    """
    try:
        tree = load_yaml(unsigned_config(data))
        function = str(tree["acquisition"]["function"])
        tree["acquisition"]["function"] = AcquisitionConfig.function
        annotation = tree["annotation"]
        oracle = str(annotation["oracle"])
        annotation["oracle"] = GROUND_TRUTH
        tree["execution"]["compare_functions"] = []
        return StoredConfig(config_from_yaml(yaml.safe_dump(tree), CONFIG), function, oracle)
    except (yaml.YAMLError, InputError) as error:
        raise ValueError(one_line(error)) from error
