"""Checkpoints of other programs: the official HALO network and its outputs, torchvision's, and broken files."""

import json
import os
import re
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import geoopt
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from halo_ray.errors import InputError
from halo_ray.models.build import ModelConfig, build_model
from halo_ray.models.pretrained import load_pretrained, read_weights
from halo_ray.models.segmenter import Segmenter

REFERENCE = Path(__file__).parents[1] / "reference"
KEYS = json.loads((REFERENCE / "official_keys.json").read_text())
FORWARD = np.load(REFERENCE / "official_forward.npz")
HALVES = ("feature_extractor", "classifier")
OFFICIAL = ModelConfig(
    backbone="resnet-101", output_stride=8, decoder="deeplabv3plus", hfr="official", frozen_batch_norm=True
)
"""The settings of the network that KEYS lists."""

Weights = dict[str, dict[str, torch.Tensor]]


def drawn(key: str, shape: list[int], generator: torch.Generator) -> torch.Tensor:
    """The weight ``key`` by the recipe that goes with the reference outputs."""
    t = torch.randn(shape, generator=generator)
    if key.endswith("running_var"):
        return 1 + 0.1 * t.abs()
    if key.endswith(("running_mean", "bias")):
        return 0.1 * t
    if key.endswith("P_MLR"):
        return (0.3 * t / 8).double()
    if key.endswith("A_MLR"):
        return t.double()
    return 1 + 0.1 * t if len(shape) == 1 else t * (1 / t[0].numel()) ** 0.5


@pytest.fixture(scope="module")
def weights() -> Weights:
    generator = torch.Generator().manual_seed(0)
    made = {
        half: {
            key: drawn(key, shape, generator) if shape else torch.tensor(0) for key, shape in sorted(KEYS[half].items())
        }
        for half in HALVES
    }
    # The input was drawn after all weights: that it agrees shows that they do.
    assert np.array_equal(torch.randn(1, 3, 64, 128, generator=generator), FORWARD["input"])
    return made


@pytest.fixture(scope="module")
def pth(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("official") / "model.pth"
    torch.save({**weights, "iteration": 15000}, path)
    yield path
    path.unlink()  # 240 MB


@pytest.fixture(scope="module")
def official(pth: Path) -> Segmenter:
    return build_model(replace(OFFICIAL, pretrained=str(pth)), 19).eval()


def said(model: Segmenter) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return model.segment(torch.from_numpy(FORWARD["input"]))._asdict()


@pytest.mark.parametrize("what", ["logits", "embedding"])
def test_the_official_network_says_what_it_said(official: Segmenter, what: str) -> None:
    expected, found = torch.from_numpy(FORWARD[what]), said(official)[what]
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_its_features_are_those_of_the_official_backbone(official: Segmenter) -> None:
    with torch.no_grad():
        low, out = official.backbone(torch.from_numpy(FORWARD["input"]))
    torch.testing.assert_close(low, torch.from_numpy(FORWARD["low"]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.mean(1), torch.from_numpy(FORWARD["out_mean"]), rtol=1e-4, atol=1e-4)


def test_every_official_weight_has_its_place_and_every_place_a_weight(official: Segmenter, weights: Weights) -> None:
    ours = official.state_dict()
    assert len(ours) == sum(len(weights[half]) for half in HALVES)
    # Random weights differ from each other, so that equal sorted contents mean a one-to-one correspondence.
    theirs = [t.float() for half in HALVES for t in weights[half].values()]
    prints = [sorted((tuple(t.shape), float(t.double().sum())) for t in side) for side in (ours.values(), theirs)]
    assert prints[0] == prints[1]
    parameters = sum(p.numel() for p in official.parameters())
    assert parameters == sum(KEYS["parameters"].values())


def test_a_lightning_checkpoint_says_the_same(official: Segmenter, weights: Weights, tmp_path: Path) -> None:
    state = {f"{half}.{key}": value for half in HALVES for key, value in weights[half].items()}
    path = tmp_path / "last.ckpt"
    # As Lightning writes it, with a configuration object of a class that is not installed here.
    module = types.ModuleType("yacs_config")
    config_class = type("CfgNode", (dict,), {"__module__": "yacs_config"})
    module.CfgNode = config_class
    sys.modules["yacs_config"] = module
    try:
        config = config_class(MODEL={"NAME": "deeplabv3plus_resnet101"})
        config.frozen = True
        callbacks = {"ModelCheckpoint": {"best_model_score": torch.tensor(0.7), "dirpath": Path("/runs")}}
        torch.save({"epoch": 3, "state_dict": state, "hyper_parameters": {"cfg": config}, "callbacks": callbacks}, path)
    finally:
        del sys.modules["yacs_config"]
    model = build_model(replace(OFFICIAL, pretrained=str(path)), 19).eval()
    path.unlink()
    assert all(torch.equal(one, said(model)[what]) for what, one in said(official).items())


def test_points_are_loaded_bit_for_bit(official: Segmenter, weights: Weights, tmp_path: Path) -> None:
    # Beyond the margin to which geoopt projects float32 points (4e-3), where training may well have put them.
    far = torch.nn.functional.normalize(weights["classifier"]["conv_seg.P_MLR"]) * (1 - 1e-4)
    path = tmp_path / "far.pth"
    torch.save({**weights, "classifier": {**weights["classifier"], "conv_seg.P_MLR": far}}, path)
    before = official.state_dict()["head.classifier.points"].clone()
    try:
        load_pretrained(official, str(path))
        points = official.head.classifier.points
        assert isinstance(points, geoopt.ManifoldParameter)
        assert torch.equal(points.detach(), far.float())
    finally:
        official.head.classifier.points.data.copy_(before)
        path.unlink()


def test_data_parallel_names_are_understood(official: Segmenter, weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "parallel.pth"
    torch.save({half: {f"module.{key}": value for key, value in weights[half].items()} for half in HALVES}, path)
    expected = {key: value.clone() for key, value in official.state_dict().items()}
    for value in official.state_dict().values():
        value.zero_()
    load_pretrained(official, str(path))
    path.unlink()
    assert all(torch.equal(expected[key], value) for key, value in official.state_dict().items())


@pytest.mark.parametrize("frozen", [True, False])
def test_torchvisions_resnet_fills_the_backbone(weights: Weights, tmp_path: Path, frozen: bool) -> None:
    state = {key.removeprefix("backbone."): value for key, value in weights["feature_extractor"].items()}
    # ResNet-50 is the smaller one: its third stage has but 6 of the 23 blocks.
    state = {key: value for key, value in state.items() if not re.match(r"layer3\.([6-9]|\d\d)\.", key)}
    state |= {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    path = tmp_path / "resnet50.pth"
    torch.save(state, path)
    config = ModelConfig(backbone="resnet-50", pretrained=str(path), decoder_width=8, frozen_batch_norm=frozen)
    model = build_model(config, 3).eval()
    path.unlink()
    with torch.no_grad():
        low = model.backbone(torch.from_numpy(FORWARD["input"]))[0]
    # torchvision's norms have an epsilon, 1e-5 of a variance near 1, and keep it when they are frozen.
    assert float((low - torch.from_numpy(FORWARD["low"])).abs().max()) < 1e-3
    norm = model.backbone.model.embedder.embedder.normalization
    expected = state["bn1.running_var"] + 1e-5 if frozen else state["bn1.running_var"]
    assert torch.equal(norm.running_var, expected)


@pytest.mark.parametrize(
    ("settings", "classes", "named"),
    [
        ({"hfr": "off"}, 19, r"8 have no place \(wn_mlp\.0\.bias, wn_mlp\.0\.weight"),
        (
            {"embedding": 32},
            19,
            r"have another shape \(conv_reduce\.bias, conv_reduce\.weight, conv_seg\.A_MLR, \.\.\.\)",
        ),
        ({}, 16, r"2 have another shape \(conv_seg\.A_MLR, conv_seg\.P_MLR\); .*class set"),
        ({"backbone": "resnet-50"}, 19, r"have no place \(layer3\.10\.bn1\.bias"),
        ({"decoder": "fusion"}, 19, r"are missing \(decoder\.context\.bias"),
    ],
)
def test_what_does_not_fit_is_named(pth: Path, settings: dict, classes: int, named: str) -> None:
    with pytest.raises(InputError, match=rf"model\.pretrained: weights of {pth} do not fit.*{named}"):
        build_model(replace(OFFICIAL, pretrained=str(pth), **settings), classes)


def test_torchvision_weights_need_that_backbone(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, path)
    with pytest.raises(InputError, match=r"have another shape \(conv1\.weight.*resnet-101"):
        build_model(ModelConfig(pretrained=str(path)), 3)


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.trace}",)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    torch.save({"conv1.weight": torch.zeros(1), "x": Attack(trace)}, path)
    with pytest.raises(InputError, match=rf"{path}.*"):
        build_model(ModelConfig(pretrained=str(path)), 3)
    assert not trace.exists()


def cut(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (cut, "cannot be read as weights"),
        (lambda path: path.write_bytes(b""), "cannot be read as weights"),
        (lambda path: path.write_text("no weights"), "cannot be read as weights"),
        (lambda path: torch.save([1, 2], path), "holds a list, no dictionary"),
        (lambda path: torch.save({"some.key": torch.zeros(1)}, path), "holds neither .* keys such as some.key"),
        (lambda path: torch.save({}, path), "holds neither .* such as none"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "ckpt"])
def test_a_file_that_is_no_checkpoint_is_named(write, reason: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    write(path)
    with pytest.raises(InputError, match=rf"model\.pretrained: {path} {reason}"):
        build_model(ModelConfig(pretrained=str(path)), 3)


def test_formats_of_files_make_no_difference(tmp_path: Path) -> None:
    state = {"a": torch.randn(3), "b": torch.randn(2, 2)}
    save_file(state, tmp_path / "new.safetensors")
    torch.save(state, tmp_path / "usual.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("new.safetensors", "usual.pth", "old.pth"):
        read = read_weights(str(tmp_path / name))
        assert read.keys() == state.keys()
        assert all(torch.equal(read[key], state[key]) for key in state)
    (tmp_path / "new.safetensors").write_bytes(b"none")
    with pytest.raises(InputError, match="cannot be read as weights"):
        read_weights(str(tmp_path / "new.safetensors"))
