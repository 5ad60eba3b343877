"""Read the configuration that an experiment has stored, as data: what it names is neither imported nor opened."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from halo_ray.acquisition.budget import AcquisitionConfig
from halo_ray.annotations.oracles import GROUND_TRUTH
from halo_ray.config import Config, config_from_yaml
from halo_ray.errors import InputError, one_line
from halo_ray.yaml_text import load_yaml

CONFIG, PLAN, CLASSES = "config.yaml", "plan.json", "classes.json"
"""What an experiment stores of itself when it begins."""


@dataclass(frozen=True)
class StoredConfig:
    """A stored configuration, and what may stand there for code of a user's own."""

    config: Config
    """With defaults for the names below."""
    function: str
    """acquisition.function: what buys."""
    oracle: str
    """annotation.oracle: who labels."""


def read_stored_config(text: bytes) -> StoredConfig:
    """What config.yaml holds.

    Raises:
        ValueError: it is no configuration; KeyError, TypeError or AttributeError for some that lack what all have.
    """
    try:
        tree = load_yaml(text)
        function = str(tree["acquisition"]["function"])
        tree["acquisition"]["function"] = AcquisitionConfig.function
        annotation = tree.setdefault("annotation", {})  # which earlier versions did not have
        oracle = str(annotation.get("oracle", GROUND_TRUTH))
        annotation["oracle"] = GROUND_TRUTH
        tree["execution"]["compare_functions"] = []
        return StoredConfig(config_from_yaml(yaml.safe_dump(tree), CONFIG), function, oracle)
    except (yaml.YAMLError, InputError) as error:
        raise ValueError(one_line(error)) from error
