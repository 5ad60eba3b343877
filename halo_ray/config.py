"""The typed configuration of an experiment: sections live beside their owners, this file puts them together."""

from __future__ import annotations

import errno
import re
import sys
from argparse import SUPPRESS, ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args, get_type_hints

import jsonargparse
import yaml

from halo_ray.acquisition.budget import AcquisitionConfig
from halo_ray.acquisition.scores import acquisition
from halo_ray.annotations.config import AnnotationConfig
from halo_ray.annotations.oracles import GROUND_TRUTH
from halo_ray.arguments import remember
from halo_ray.bounds import Range, check_ranges
from halo_ray.data.manifest import DataConfig
from halo_ray.errors import InputError, has_control_characters, one_line, printable
from halo_ray.execution import ExecutionConfig
from halo_ray.models.build import ModelConfig
from halo_ray.quality import EvaluationConfig
from halo_ray.secret import redacted, stored
from halo_ray.suggest import nearest
from halo_ray.training.config import TrainingConfig
from halo_ray.yaml_text import load_yaml

FREE = (
    "output_dir",
    "data_root",
    "data.on_bad_record",
    "annotation.accept_share",
    "annotation.last_answer_wins",
    "training.accumulation",
    "training.stop_after_bad_steps",
)
"""Keys that may change at a resume, beside data.*.root and execution.*: where things lie, and what a machine needs."""

_DIGITS = 300
"""An integer of more may be above every float, and end the parser with an error that names no key."""

_LONGEST = 1000
"""Characters of what a parser says, which quotes values whole."""

_PARSER_KEYS = ("help", "config", "preset", "print_config")


@dataclass(frozen=True)
class Config:
    """An experiment. All but FREE, data.*.root and execution.* is its identity."""

    output_dir: str = "runs/demo"
    """Directory or URI (s3://, gs://) of the experiment; the same command continues what lies there."""
    data_root: str = ""
    """Directory or URI below which the images lie; unused by synthetic scenes."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Seed of all random choices."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images, labels and classes"""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Segmentation network"""
    acquisition: AcquisitionConfig = field(default_factory=AcquisitionConfig)
    """Which pixels are bought"""
    annotation: AnnotationConfig = field(default_factory=AnnotationConfig)
    """Who labels them"""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Training"""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Evaluation"""
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    """Machines and processes; may change when a run is resumed"""

    def __post_init__(self) -> None:
        check_ranges(self, "")
        if not self.output_dir:
            raise InputError("output_dir is empty: name a directory")
        for name in self.execution.compare_functions:
            acquisition(name, "execution.compare_functions")
        self.training.steps_of_rounds(self.acquisition.rounds)
        if self.training.cache_features and not self.model.frozen_backbone:
            raise InputError("training.cache_features needs a backbone that never changes: set model.frozen_backbone")
        if not self.has_source and self.training.trains_twin:
            raise InputError(
                "training.control trains a twin on the source alone, but data.source.reader is none: set it to false"
            )

    @property
    def rounds(self) -> int:
        """How many rounds buy labels."""
        return self.acquisition.rounds if self.training.buys else 0

    def round_seed(self, number: int) -> int:
        """Seed of all random choices of a round; 0 is the pretraining."""
        return self.seed * 1000 + number

    @property
    def needs_pool_labels(self) -> bool:
        """Whether every pool image must have a label file."""
        return self.annotation.oracle == GROUND_TRUTH or not self.training.buys

    @property
    def has_source(self) -> bool:
        """Whether there are source images."""
        return self.data.source.reader != "none"

    @property
    def most_workers(self) -> int:
        """How many training processes can share every step."""
        return self.training.smallest_step(has_source=self.has_source) // self.training.accumulation

    @property
    def needs_class_statistics(self) -> bool:
        """Whether the classes of every source image must be counted."""
        return self.training.source_sampling.method != "uniform"


def parse_config(arguments: Sequence[str], presets: Path) -> Config:
    """The configuration that a command line asks for: defaults, then --preset or --config, then single options.

    Args:
        arguments: without the program's name.
        presets: directory of the files that --preset names.

    Raises:
        InputError: unknown key (the nearest valid one is named), wrong type, contradiction.
        SystemExit: after --help and --print_config.
    """
    remember(arguments)
    arguments = list(_expand_presets(arguments, presets))
    valid = set(_keys(Config))
    for argument in arguments:
        option = re.match(r"--([^=+]+)", argument)
        if option and option[1] not in valid and option[1] not in _PARSER_KEYS:
            raise InputError(f"unknown option --{option[1]}; {nearest(option[1], valid)}")
    parser = _parser()
    try:
        return _config(parser, parser.parse_args(arguments))
    except ArgumentError as error:
        raise InputError(_one_sentence(str(error))) from error
    except OverflowError as error:
        found = re.search(rf"--([\w.]+)[= ](?:(?! --).)*\d{{{_DIGITS}}}", " ".join(arguments), re.S)
        raise InputError(
            f"{found[1] if found else 'a number'} is too large: it has {_DIGITS} digits or more"
        ) from error


def config_from_yaml(text: str | bytes, name: str) -> Config:
    """The configuration in a YAML document; ``name`` is what errors call it."""
    parser, tree = _parser(), _checked_tree(text, name)
    try:
        return _config(parser, parser.parse_object(tree))
    except (ArgumentError, InputError) as error:
        raise InputError(f"{name}: {_one_sentence(str(error))}") from error


def config_to_yaml(config: Config) -> str:
    return yaml.safe_dump(_plain(asdict(config)), sort_keys=False)


def identity(config: Config) -> dict[str, Any]:
    """The keys that make an experiment what it is, dotted, with their values; others may change at a resume."""
    flat = _flat(_plain(asdict(config)))
    return {
        key: value
        for key, value in flat.items()
        if key not in FREE and not key.startswith("execution.") and not key.endswith(".root")
    }


class _Yaml(yaml.SafeLoader):
    """YAML with the words and numbers of version 1.2: ``off`` is a word and 1e-3 a number."""


_TAGS = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_Yaml.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] not in _TAGS]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver(_TAGS[0], re.compile("(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_FLOAT = r"""([-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+
    |[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"""
_Yaml.add_implicit_resolver(_TAGS[1], re.compile(_FLOAT, re.X), list("-+.0123456789"))


def _load_yaml(text: str | bytes) -> Any:
    return load_yaml(text, _Yaml)


class _Parser(jsonargparse.ArgumentParser):  # type: ignore[misc]
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise InputError(_one_sentence(message)) from ex


@cache  # what it is made of is read from source code
def _parser() -> _Parser:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    jsonargparse.set_loader("yaml-1.2", _load_yaml, (yaml.YAMLError,))
    parser = _Parser(
        prog=Path(sys.argv[0]).name,
        description="HALO: buy labels for the pixels that are worth it.",
        parser_mode="yaml-1.2",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--preset", default=SUPPRESS, help="File in jobs/presets, without .yaml; options after it win.")
    parser.add_argument(
        "--plan", action="store_true", default=SUPPRESS, help="Print hours, storage and regions; nothing is spent."
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below; options after it win.")
    parser.add_class_arguments(Config)
    return parser


def _config(parser: jsonargparse.ArgumentParser, parsed: jsonargparse.Namespace) -> Config:
    """The configuration of what was parsed, which lets null pass everywhere and any text."""
    optional, given = _optional_keys(Config), _flat(parsed.as_dict())
    for key in _keys(Config):
        for value in _leaves(given.get(key, "")):
            if value is None and key not in optional:
                raise InputError(f"{key} is null: give it a value or leave it out")
            if isinstance(value, str) and has_control_characters(value):
                raise InputError(f"{key} is {value!r}: control characters cannot stand there")
    made = parser.instantiate(parsed)
    return Config(**{item.name: getattr(made, item.name) for item in fields(Config)})


def _leaves(value: Any) -> list[Any]:
    return [leaf for each in value for leaf in _leaves(each)] if isinstance(value, (list, tuple)) else [value]


def _expand_presets(arguments: Sequence[str], presets: Path) -> list[str]:
    """The same arguments with every preset as the configuration file it stands for; files are checked."""
    known = sorted(path.stem for path in presets.glob("*.yaml"))
    out: list[str] = []
    waiting = list(arguments)
    while waiting:
        option, _, value = waiting.pop(0).partition("=")
        if option not in ("--preset", "--config"):
            out.append(f"{option}={value}" if _ else option)
            continue
        if not _ and not waiting:
            raise InputError(f"{option} needs a name")
        value = value if _ else waiting.pop(0)
        if option == "--preset":
            if value not in known:
                raise InputError(f"no preset {value!r} in {presets}; {nearest(value, known)}")
            value = str(presets / f"{value}.yaml")
        try:
            if Path(value).exists() and not Path(value).is_file():
                raise OSError(errno.EISDIR, "it is no file")  # but a directory, or a pipe that might never end
            tree = _checked_tree(Path(value).read_bytes(), value)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or one_line(error)
            raise InputError(f"--config {printable(value)} cannot be read: {why}") from error
        if tree:
            out.append(f"--config={value}")
    return out


def _checked_tree(text: str | bytes, name: str) -> dict[str, Any]:
    """The YAML document as a tree whose keys are all known."""
    try:
        tree = _load_yaml(text.decode() if isinstance(text, bytes) else text) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{name} is no YAML: {one_line(error)}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{name} must hold keys with values")
    valid = _keys(Config)
    for key, value in _flat(tree).items():
        if key not in valid:
            raise InputError(f"{name}: unknown key {printable(key)}; {nearest(key, valid)}")
        if any(isinstance(leaf, int) and abs(leaf) >= 10**_DIGITS for leaf in _leaves(value)):
            raise InputError(f"{name}: {key} is too large: it has {_DIGITS} digits or more")
        if any(other.startswith(f"{key}.") for other in valid):
            raise InputError(f"{name}: {key} is a section and needs keys of its own, not {_one_sentence(repr(value))}")
    return tree


def _keys(section: type[Any]) -> list[str]:
    """Dotted names of all fields below a configuration section, sections included."""
    hints = get_type_hints(section)
    keys: list[str] = []
    for item in fields(section):
        keys.append(item.name)
        if is_dataclass(hints[item.name]):
            keys += [f"{item.name}.{key}" for key in _keys(hints[item.name])]
    return keys


def _optional_keys(section: type[Any]) -> set[str]:
    """Those of _keys that may be null."""
    hints, optional = get_type_hints(section), set()
    for item in fields(section):
        if is_dataclass(hints[item.name]):
            optional |= {f"{item.name}.{key}" for key in _optional_keys(hints[item.name])}
        elif type(None) in get_args(hints[item.name]):
            optional.add(item.name)
    return optional


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out.update({f"{key}.{below}": v for below, v in _flat(value).items()})
        else:
            out[str(key)] = value
    return out


def _plain(value: Any) -> Any:
    """The same tree without tuples, which YAML does not have, and without credentials in URIs; paths stay."""
    if isinstance(value, dict):
        return {key: _plain(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(below) for below in value]
    return stored(value) if isinstance(value, str) else value


def _one_sentence(message: str) -> str:
    text = printable(" ".join(redacted(message).split()))  # before it is cut
    text = re.sub(r"Parser key \"([^\"]+)\": ", r"\1: ", text)
    text = re.sub(r"<class '(\w+)'>|typing\.", lambda m: m[1] or "", text).rstrip(".")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
