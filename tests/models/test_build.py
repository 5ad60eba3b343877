"""Models from configurations: strides, geometry, what is frozen, and the way through a checkpoint."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from halo_ray.checkpoint import load_model, weights_checksum, write_checkpoint
from halo_ray.errors import InputError
from halo_ray.models.backbones import build_backbone, locate_backbone
from halo_ray.models.build import ModelConfig, build_model, describe_model, rebuild_model
from halo_ray.storage import Storage

MOBILENET = Path(__file__).parents[3] / "shared/weights/mobilenet_v2_imagenet"
SMALL = ModelConfig(embedding=8, decoder_width=16)


def images(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("geometry", ["hyperbolic", "euclidean"])
def test_logits_and_embedding_at_stride_four(geometry: str) -> None:
    model = build_model(replace(SMALL, geometry=geometry, curvature=2.0), 5).eval()
    with torch.no_grad():
        said = model(images())
    assert said.logits.shape == (2, 5, 16, 24)
    assert said.embedding.shape == (2, 8, 16, 24)
    if geometry == "hyperbolic":
        assert float(said.embedding.norm(dim=1).max()) < 1 / 2**0.5
    assert model.curvature == (2.0 if geometry == "hyperbolic" else 0.0)


def test_pyramid_is_what_the_backbone_gives() -> None:
    backbone = build_backbone("resnet-tiny", frozen=False).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 64, 128))
    assert backbone.strides == [4, 8, 16, 32]
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 64 // s, 128 // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)
    ]


def test_a_frozen_backbone_keeps_weights_and_statistics_in_training() -> None:
    model = build_model(replace(SMALL, frozen_backbone=True), 5).train()
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    model(images()).logits.sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.decoder.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.backbone.state_dict().items())


@pytest.mark.parametrize("geometry", ["hyperbolic", "euclidean"])
def test_checkpoint_says_the_same_as_the_model(geometry: str, tmp_path: Path) -> None:
    config = replace(SMALL, geometry=geometry, curvature=0.5)
    model = build_model(config, 5)
    model(images(1))  # moves the batch norms' statistics
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (tmp_path / "one").mkdir()
    write_checkpoint(tmp_path / "one", describe_model(config, 5, model), model, optimizer)
    storage = Storage(str(tmp_path))
    again = load_model(storage, "one")
    with torch.no_grad():
        expected, found = model.eval()(images()), again(images())
    assert torch.equal(expected.logits, found.logits)
    assert torch.equal(expected.embedding, found.embedding)
    (tmp_path / "two").mkdir()
    other = rebuild_model(describe_model(config, 5, model))
    write_checkpoint(tmp_path / "two", describe_model(config, 5, other), other, optimizer)
    assert weights_checksum(storage, "one") != weights_checksum(storage, "two")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(InputError, match=r"model\.backbone.*" + name):
        locate_backbone(name)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.backbone"):
        build_backbone(str(tmp_path), frozen=False)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"curvature": 0.0}, "curvature"),
        ({"curvature": float("inf")}, "curvature"),
        ({"embedding": 1}, "embedding"),
        ({"decoder_width": 12}, "decoder_width"),
        ({"pixel_std": (1.0, 0.0, 1.0)}, "pixel_std"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict, key: str) -> None:
    with pytest.raises(InputError, match=rf"model\.{key} is"):
        ModelConfig(**settings)


@pytest.mark.skipif(not MOBILENET.is_dir(), reason=f"no ImageNet weights at {MOBILENET}")
def test_imagenet_mobilenet_is_loaded_with_its_weights() -> None:
    from safetensors.torch import load_file

    backbone = build_backbone(str(MOBILENET), frozen=True)
    stored = load_file(MOBILENET / "model.safetensors")
    loaded = backbone.model.state_dict()
    assert set(stored) == set(loaded)
    assert all(torch.equal(stored[key], loaded[key]) for key in stored)
    assert backbone.strides == [4, 8, 16, 32]
    assert backbone.channels == [24, 32, 96, 320]  # the last block of each stride, Sandler et al. 2018, table 2


@pytest.mark.skipif(not MOBILENET.is_dir(), reason=f"no ImageNet weights at {MOBILENET}")
def test_what_lies_behind_the_last_feature_map_is_not_trained() -> None:
    backbone = build_backbone(str(MOBILENET), frozen=False)
    sum(m.sum() for m in backbone(torch.rand(1, 3, 64, 64))).backward()
    # A parameter that wants a gradient and gets none makes data-parallel training fail.
    assert all((p.grad is not None) == p.requires_grad for p in backbone.parameters())
    assert not any(p.requires_grad for p in backbone.model.conv_1x1.parameters())
    assert all(p.requires_grad for p in backbone.model.layer.parameters())
