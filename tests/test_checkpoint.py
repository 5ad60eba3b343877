"""Checkpoints: the way through their files to the last bit, damaged files, and networks that start from one."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from halo_ray.checkpoint import load_description, load_model, load_optimizer_state, load_state, write_checkpoint
from halo_ray.errors import InputError
from halo_ray.models.build import ModelConfig, build_model, describe_model
from halo_ray.models.segmenter import Segmenter
from halo_ray.storage import Storage
from halo_ray.training.config import TrainingConfig
from halo_ray.training.optimizers import Optimizers

SMALL = ModelConfig(embedding=8, decoder_width=16, curvature=0.5, hfr="official")
FILES = ["model.json", "model.safetensors", "optimizer.pt", "training.json"]
STATE = {"step": 7, "bad_steps": 1}
IMAGES = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def trained(config: ModelConfig = SMALL, dtype: torch.dtype = torch.float32) -> tuple[Segmenter, Optimizers]:
    """After a step, which moves weights, statistics and moments."""
    torch.manual_seed(3)
    model = build_model(config, 5).to(dtype)
    optimizers = Optimizers(model, TrainingConfig(), 1e-3)
    model(IMAGES).logits.square().mean().backward()
    optimizers.step()
    return model, optimizers


def equal(one: Any, other: Any) -> bool:
    """Of nested dictionaries and lists, tensors to the last bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def write(storage: Storage, name: str, config: ModelConfig, model: Segmenter, optimizers: Optimizers) -> None:
    description = describe_model(config, 5, model) | {"class_names": list("abcde"), "input_size": [64, 96]}
    write_checkpoint(storage, name, description, model, optimizers.state_dict(), STATE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that tests leave as it is."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write(Storage(str(folder)), "whole", SMALL, *trained())
    return folder / "whole"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "some/copy"))


@pytest.mark.parametrize("geometry", ["hyperbolic", "euclidean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_was_written_is_loaded_to_the_last_bit(dtype: torch.dtype, geometry: str, tmp_path: Path) -> None:
    config, storage = replace(SMALL, geometry=geometry), Storage(str(tmp_path))
    model, optimizers = trained(config, dtype)
    write(storage, "some/checkpoint", config, model, optimizers)
    again = load_model(storage, "some/checkpoint")
    assert equal(dict(again.state_dict()), dict(model.state_dict()))
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(IMAGES).logits, model.eval()(IMAGES).logits)
    assert equal(load_optimizer_state(storage, "some/checkpoint"), optimizers.state_dict())
    assert load_state(storage, "some/checkpoint") == STATE
    description = load_description(storage, "some/checkpoint")
    assert (description["classes"], description["class_names"], description["input_size"]) == (
        5,
        list("abcde"),
        [64, 96],
    )
    assert sorted(file.name for file in (tmp_path / "some/checkpoint").iterdir()) == FILES


def test_loading_leaves_random_numbers_of_the_weights_file_alone(whole: Path) -> None:
    """What is loaded does not depend on the seed that the architecture was made with."""
    storage = Storage(str(whole.parent))
    torch.manual_seed(1)
    one = load_model(storage, "whole")
    torch.manual_seed(2)
    assert equal(dict(load_model(storage, "whole").state_dict()), dict(one.state_dict()))


def test_a_checkpoint_replaces_an_older_one_and_nothing_else(copy: Path) -> None:
    (copy / "left.txt").touch()
    before = load_file(copy / "model.safetensors")
    model, optimizers = trained(replace(SMALL, hfr="off"))
    write(Storage(str(copy.parent)), "copy", replace(SMALL, hfr="off"), model, optimizers)
    assert sorted(file.name for file in copy.iterdir()) == sorted([*FILES, "left.txt"])
    assert load_file(copy / "model.safetensors").keys() < before.keys()


@pytest.mark.parametrize("writes", range(4))
@pytest.mark.parametrize("over_another", [False, True])
def test_one_that_was_interrupted_has_no_state(
    writes: int, over_another: bool, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(SMALL, hfr="off")
    storage, left, (model, optimizers) = Storage(str(copy.parent)), [None] * writes, trained(other)
    original = Storage.commit

    def failing(self: Storage, name: str, data: bytes) -> None:
        if not left:
            raise OSError("killed")
        left.pop()
        original(self, name, data)

    monkeypatch.setattr(Storage, "commit", failing)
    name = "copy" if over_another else "new"
    with pytest.raises(OSError, match="killed"):
        write(storage, name, other, model, optimizers)
    assert load_state(storage, name) is None


def test_without_its_state_it_is_not_whole(copy: Path) -> None:
    storage = Storage(str(copy.parent))
    assert load_state(storage, "copy") == STATE
    (copy / "training.json").unlink()
    assert load_state(storage, "copy") is None
    assert load_state(storage, "nowhere") is None


READ: dict[str, Callable[[Storage, str], object]] = {
    "model.json": load_model,
    "model.safetensors": load_model,
    "optimizer.pt": load_optimizer_state,
    "training.json": load_state,
}


@pytest.mark.parametrize("file", ["model.json", "model.safetensors", "optimizer.pt"])
def test_a_missing_file_names_the_checkpoint(file: str, copy: Path) -> None:
    (copy / file).unlink()
    with pytest.raises(InputError, match=f"{copy}"):
        READ[file](Storage(str(copy.parent)), "copy")


@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.9])
@pytest.mark.parametrize("file", READ)
def test_a_file_that_was_cut_off_names_the_checkpoint(file: str, keep: float, copy: Path) -> None:
    data = (copy / file).read_bytes()
    (copy / file).write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match=f"{copy}"):
        READ[file](Storage(str(copy.parent)), "copy")


def test_no_checkpoint_at_all_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"checkpoint {tmp_path}/nowhere cannot be loaded"):
        load_model(Storage(str(tmp_path)), "nowhere")


def without(folder: Path, part: str) -> None:
    weights = {key: value for key, value in load_file(folder / "model.safetensors").items() if part not in key}
    save_file(weights, folder / "model.safetensors")


def changed(folder: Path, **changes: Any) -> None:
    description = json.loads((folder / "model.json").read_text())
    description["model"].update(changes)
    (folder / "model.json").write_text(json.dumps(description))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no description": lambda folder: (folder / "model.json").write_text("{}"),
    "a list as description": lambda folder: (folder / "model.json").write_text("[]"),
    "a setting of another version": lambda folder: changed(folder, colour="red"),
    "no classifier": lambda folder: without(folder, "head."),
    "no decoder": lambda folder: without(folder, "decoder."),
    "weights of a wider network": lambda folder: changed(folder, embedding=16),
    "no weights": lambda folder: save_file({}, folder / "model.safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_files_that_do_not_belong_together_name_the_checkpoint(damage: str, copy: Path) -> None:
    (copy / "training.json").unlink()  # which would tell at once
    DAMAGE[damage](copy)
    with pytest.raises(InputError, match=rf"{copy}(/model\.json is damaged| cannot be loaded)"):
        load_model(Storage(str(copy.parent)), "copy")


@pytest.mark.parametrize("file", READ)
def test_a_single_bit_that_changed_is_told(file: str, copy: Path) -> None:
    data = bytearray((copy / file).read_bytes())
    data[len(data) * 2 // 3] ^= 1
    (copy / file).write_bytes(data)
    with pytest.raises(InputError, match=f"{copy}/.* is damaged"):
        READ[file](Storage(str(copy.parent)), "copy")


class Code:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


def test_code_in_an_optimizer_s_state_is_not_run(copy: Path, tmp_path: Path) -> None:
    (copy / "training.json").unlink()  # else it would not be read at all
    torch.save({"flat": Code(tmp_path / "ran")}, copy / "optimizer.pt")
    with pytest.raises((InputError, pickle.UnpicklingError)):
        load_optimizer_state(Storage(str(copy.parent)), "copy")
    assert not (tmp_path / "ran").exists()
    torch.load(copy / "optimizer.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


def test_a_network_starts_from_a_checkpoint(whole: Path) -> None:
    model = build_model(replace(SMALL, pretrained=str(whole)), 5)
    assert equal(dict(model.state_dict()), load_file(whole / "model.safetensors"))
    assert model.training
    assert all(p.requires_grad for p in model.parameters())


def test_what_does_not_shape_a_network_may_differ_from_its_checkpoint(whole: Path) -> None:
    model = build_model(replace(SMALL, pretrained=str(whole), frozen_backbone=True, frozen_hfr_norm=True), 5)
    assert equal(dict(model.state_dict()), load_file(whole / "model.safetensors"))
    assert not any(p.requires_grad for p in model.backbone.parameters())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("curvature", 2.0),
        ("geometry", "euclidean"),
        ("embedding", 16),
        ("decoder", "segformer"),
        ("decoder_width", 24),
        ("hfr", "resolution-free"),
        ("output_stride", 16),
        ("frozen_batch_norm", True),
        ("pixel_mean", (0.5, 0.5, 0.5)),
        ("pixel_std", (0.5, 0.5, 0.5)),
        ("backbone", "mit-b0"),
    ],
)
def test_another_network_than_its_checkpoint_s_is_named_with_both_values(key: str, value: object, whole: Path) -> None:
    there, here = (list(v) if isinstance(v, tuple) else v for v in (getattr(SMALL, key), value))
    with pytest.raises(InputError) as caught:
        build_model(replace(SMALL, pretrained=str(whole), **{key: value}), 5)
    said = str(caught.value)
    assert said.startswith(f"model.pretrained: checkpoint {whole}")
    for part in (f"model.{key}", str(there), str(here)):
        assert part in said, part


@pytest.mark.parametrize("name", ["resnet-50", "mobilenet-v2"])
def test_every_other_architecture_is_refused(name: str, whole: Path) -> None:
    with pytest.raises(InputError, match=f"model.pretrained: checkpoint {whole} .*{name}"):
        build_model(replace(SMALL, pretrained=str(whole), backbone=name), 5)


def test_another_number_of_classes_is_named(whole: Path) -> None:
    with pytest.raises(InputError, match=f"checkpoint {whole} .*classes.* 5 there and 7 here"):
        build_model(replace(SMALL, pretrained=str(whole)), 7)


def test_all_that_differs_is_named_at_once(whole: Path) -> None:
    with pytest.raises(InputError, match=r"model\.curvature is 0\.5 there and 2\.0 here, model\.hfr is official there"):
        build_model(replace(SMALL, pretrained=str(whole), curvature=2.0, hfr="off"), 5)


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name not in ("a setting of another version",)])
def test_a_damaged_checkpoint_is_named(damage: str, copy: Path) -> None:
    DAMAGE[damage](copy)
    with pytest.raises(InputError, match=rf"^model\.pretrained: checkpoint {copy} "):
        build_model(replace(SMALL, pretrained=str(copy)), 5)


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
def test_a_checkpoint_that_was_cut_off_is_named(file: str, copy: Path) -> None:
    (copy / file).write_bytes((copy / file).read_bytes()[:100])
    with pytest.raises(InputError, match=rf"^model\.pretrained: checkpoint {copy} cannot be read"):
        build_model(replace(SMALL, pretrained=str(copy)), 5)


def test_a_checkpoint_without_weights_is_named(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match=rf"^model\.pretrained: checkpoint {copy} cannot be read"):
        build_model(replace(SMALL, pretrained=str(copy)), 5)
