"""Configuration: what a command line and a file may say, and how a wrong word is answered."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from halo_ray.config import Config, config_from_yaml, config_to_yaml, identity, parse_config
from halo_ray.errors import InputError

PRESETS = Path(__file__).parents[1] / "jobs" / "presets"


def parse(*arguments: str) -> Config:
    return parse_config(arguments, PRESETS)


def test_no_argument_gives_the_defaults() -> None:
    assert parse() == Config()


def test_single_options_win_over_a_preset() -> None:
    config = parse("--preset", "tiny", "--acquisition.rounds", "5", "--model.curvature=0.5")
    tiny = yaml.safe_load((PRESETS / "tiny.yaml").read_text())
    assert config.acquisition.rounds == 5
    assert config.model.curvature == 0.5
    assert config.acquisition.budget == tiny["acquisition"]["budget"]
    assert config.data.pool.scenes == tiny["data"]["pool"]["scenes"]


def test_words_and_numbers_of_a_file_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    text = "model: {hfr: off, curvature: 1e-1, output_stride: null}\nseed: 7\n"
    text += "training: {augment: {flip: False}, control: true}\n"
    (tmp_path / "mine.yaml").write_text(text + "acquisition: {beta: .inf}\ndata: {pool: {split: no}}\n")
    config = parse_config(["--config", str(tmp_path / "mine.yaml")], PRESETS)
    assert (config.model.hfr, config.model.curvature, config.model.output_stride) == ("off", 0.1, None)
    assert (config.training.augment.flip, config.training.control, config.seed) == (False, True, 7)
    assert (config.acquisition.beta, config.data.pool.split) == (float("inf"), "no")
    assert config_from_yaml(config_to_yaml(config), "dump") == config


def test_a_file_may_hold_any_key(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 4\nexecution: {num_workers: 2}\n")
    config = parse(f"--config={file}")
    assert (config.seed, config.execution.num_workers) == (4, 2)


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_parses_and_survives_its_own_dump(preset: str) -> None:
    config = parse("--preset", preset)
    assert config_from_yaml(config_to_yaml(config), "dump") == config


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--acquisition.budge", "0.1"], ["--acquisition.budge", "acquisition.budget"]),
        (["--bugdet", "0.1"], ["--bugdet", "budget"]),
        (["--curvature", "1"], ["--curvature", "model.curvature"]),
        (["--seed", "many"], ["seed", "int", "many"]),
        (["--model.geometry", "flat"], ["model.geometry", "hyperbolic", "flat"]),
        (["--model.curvature", "-1"], ["model.curvature", "-1"]),
        (["--model.curvature", "nan"], ["model.curvature", "nan"]),
        (["--acquisition.budget", "0"], ["acquisition.budget", "0"]),
        (["--acquisition.budget", "1.01"], ["acquisition.budget", "1.01"]),
        (["--acquisition.normalize", "minmax"], ["acquisition.normalize", "acquisition.scope"]),
        (["--execution.min_actors", "3"], ["execution.min_actors", "execution.max_actors"]),
        (["--preset", "tinny"], ["tinny", "did you mean 'tiny'"]),
        (["--preset"], ["--preset"]),
        (["--config", "/nowhere.yaml"], ["/nowhere.yaml"]),
        (["stray"], ["stray"]),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_key(arguments: list[str], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        parse(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("acquisition: {rouns: 3}", ["acquisition.rouns", "acquisition.rounds"]),
        ("model: 3", ["model", "3"]),
        ("seed: [1]", ["seed"]),
        ("- 1", ["keys with values"]),
        ("a: [", ["no YAML"]),
    ],
)
def test_a_mistake_in_a_file_names_file_and_key(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        parse("--config", str(file))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_help_documents_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    assert ended.value.code == 0
    lines = " ".join(capsys.readouterr().out.split())

    def check(section: type, prefix: str) -> None:
        for item in fields(section):
            kind = get_type_hints(section)[item.name]
            if is_dataclass(kind):
                check(kind, f"{prefix}{item.name}.")
            else:
                after = lines.partition(f"--{prefix}{item.name} ")[2].partition("(type:")[0]
                # Something is said between the option's metavariable and its type.
                assert len(after.split()) > 3, f"{prefix}{item.name}"

    check(Config, "")


def test_print_config_prints_what_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--preset", "tiny", "--seed", "7", "--print_config")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert config_from_yaml(printed, "printed") == parse("--preset", "tiny", "--seed", "7")


def test_identity_leaves_out_places_and_execution() -> None:
    one = parse("--output_dir", "a", "--data_root", "b", "--data.pool.root", "c", "--execution.max_actors", "1")
    assert identity(one) == identity(parse())
    assert identity(parse("--training.accumulation", "2", "--training.stop_after_bad_steps", "3")) == identity(parse())
    assert identity(parse("--seed", "1")) != identity(parse())
    assert identity(parse("--model.curvature", "2")) != identity(parse())
