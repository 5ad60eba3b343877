"""A study: tables of named variants of one configuration, each with several budgets and seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from halo_ray.acquisition.budget import BUDGET
from halo_ray.config import Config, identity
from halo_ray.data.local import what_is
from halo_ray.errors import InputError, one_line
from halo_ray.shared_keys import pretraining_settings
from halo_ray.storage import safe_name
from halo_ray.suggest import nearest
from halo_ray.sweep.space import SEEDS
from halo_ray.sweep.variants import typed_settings, with_settings
from halo_ray.yaml_text import load_yaml

_ONE_PASS = ("acquisition.function", "acquisition.budget")
"""What trials that one scoring pass serves may differ in."""


@dataclass(frozen=True)
class Case:
    """One trial: a variant with a budget and a seed."""

    variant: str
    budget: float
    seed: int
    settings: Mapping[str, Any] = field(compare=False)
    """Of the variant, as typed_settings gives them."""

    @property
    def name(self) -> str:
        """Of the trial's directory."""
        return f"{safe_name(self.variant)}-b{self.budget!r}-s{self.seed}"

    def set(self, base: Config) -> Config:
        """``base`` with the settings, budget and seed; raises InputError where one cannot be used."""
        return with_settings(base, {**self.settings, "seed": self.seed, "acquisition.budget": self.budget})


@dataclass(frozen=True)
class Table:
    """What is shown together."""

    title: str
    variants: tuple[str, ...]
    budget: tuple[float, ...]
    seeds: int
    reference: str
    """Variant to which differences are taken, seed by seed."""


@dataclass(frozen=True)
class Study:
    """Variants, the settings of each as typed_settings gives them, and the tables that they stand in."""

    variants: Mapping[str, Mapping[str, Any]]
    tables: tuple[Table, ...]
    done: frozenset[str] = frozenset()
    """Names of trials that are left out: what they found is known."""

    swept: ClassVar[tuple[str, ...]] = ("seed", "acquisition.budget")

    def points(self) -> list[Case]:
        """Trials that are not done, once, seed by seed: what is there when a study is interrupted can be compared."""
        found = {
            Case(variant, budget, seed, self.variants[variant]): None
            for seed in range(max(table.seeds for table in self.tables))
            for table in self.tables
            if seed < table.seeds
            for budget in table.budget
            for variant in table.variants
        }
        return [case for case in found if case.name not in self.done]

    def leaders(self, base: Config) -> list[tuple[Case, tuple[str, ...]]]:
        """For each pretrained model the trial with the largest budget, of those whose scoring pass serves the most."""
        same_pass: dict[str, dict[str, list[Case]]] = {}
        functions: dict[Case, str] = {}
        for case in self.points():
            config = case.set(base)
            scored = {key: value for key, value in identity(config).items() if key not in _ONE_PASS}
            passes = same_pass.setdefault(repr(pretraining_settings(config)), {})
            passes.setdefault(repr(scored), []).append(case)
            functions[case] = config.acquisition.function
        found = []
        for passes in same_pass.values():
            most = max(passes.values(), key=len)
            first, *others = sorted(most, key=lambda case: -case.budget)
            found.append((first, tuple(dict.fromkeys(functions[case] for case in others))))
        return found

    def told(self) -> dict[str, Any]:
        """Nothing: variants and tables may be added, and each trial knows its own settings."""
        return {}


def read_study(path: Path, base: Config) -> Study:
    """The study that a YAML file describes, around ``base``.

    ``variants``: settings by dotted key, by name. ``tables``: by title: ``variants`` (names), ``seeds`` (how many),
    ``reference`` (a variant), ``budget`` (a list; without it that of ``base``).

    Raises:
        InputError: the file cannot be read, or something in it cannot be used.
    """
    if (what := what_is(str(path))) is not None:  # a pipe might never end
        raise InputError(f"{path} cannot be read: it is {what}")
    try:
        tree = load_yaml(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {one_line(error)}") from error
    if not isinstance(tree, dict) or set(tree) != {"variants", "tables"} or not all(map(_is_tree, tree.values())):
        raise InputError(f"{path} must hold variants and tables, and nothing else")
    variants = {}
    for name, settings in tree["variants"].items():
        if not isinstance(settings, dict):
            raise InputError(f"{path}: variant {name} must hold settings by key, {{}} for none")
        variants[name] = typed_settings(base, settings, f"{path}: variant {name}")
    tables = tuple(
        _table(f"{path}: table {title}", title, own, variants, base) for title, own in tree["tables"].items()
    )
    study = Study(variants, tables)
    try:
        for case in study.points():
            case.set(base)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return study


def _table(where: str, title: Any, tree: Any, variants: Mapping[str, Any], base: Config) -> Table:
    wanted = {"variants", "seeds", "reference"}
    if not isinstance(tree, dict) or not wanted <= set(tree) <= {*wanted, "budget"}:
        raise InputError(f"{where} must hold variants, seeds and reference, and may hold budget")
    names, budget, seeds = tree["variants"], tree.get("budget", [base.acquisition.budget]), tree["seeds"]
    if not isinstance(names, list) or not names or not isinstance(budget, list) or not budget:
        raise InputError(f"{where}: variants and budget must be lists that are not empty")
    twice = [name for name, times in Counter(map(str, names)).items() if times > 1]
    if twice:
        raise InputError(f"{where}: variant {twice[0]} stands twice")
    for name in (*names, tree["reference"]):
        if name not in variants:
            raise InputError(f"{where}: there is no variant {name!r}; {nearest(str(name), variants)}")
    if tree["reference"] not in names:
        raise InputError(f"{where}: the reference {tree['reference']!r} is not among its variants: add it to them")
    if not isinstance(seeds, int):
        raise InputError(f"{where}: seeds is {seeds!r}: it must be a whole number")
    SEEDS.check(f"{where}: seeds", seeds)
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in budget):
        raise InputError(f"{where}: budget must hold numbers")
    BUDGET.check(f"{where}: budget", budget)
    return Table(str(title), tuple(names), tuple(float(value) for value in budget), seeds, tree["reference"])


def _is_tree(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(key, str) for key in value)
