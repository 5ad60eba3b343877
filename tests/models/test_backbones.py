"""Backbones: pyramids, dilation, weights from folders, and names that give nothing."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertModel,
    Dinov2Backbone,
    Dinov2Config,
    PvtV2Backbone,
    PvtV2Config,
    ResNetConfig,
    ResNetForImageClassification,
    SegformerConfig,
    SegformerForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)

from halo_ray.errors import InputError
from halo_ray.models.backbones import ARCHITECTURES, build_backbone, locate

MOBILENET = Path(__file__).parents[3] / "shared/weights/mobilenet_v2_imagenet"
NEEDS_MOBILENET = pytest.mark.skipif(not MOBILENET.is_dir(), reason=f"no ImageNet weights at {MOBILENET}")
TINY_RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[16, 24, 32, 40], depths=[1, 2, 2, 2])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small ResNet, as a classifier would be stored."""
    ResNetForImageClassification(TINY_RESNET).save_pretrained(tmp_path / "resnet")
    return tmp_path / "resnet"


@pytest.mark.parametrize(
    ("name", "channels", "parameters"),
    [
        ("resnet-tiny", [32, 48, 64, 96], None),
        ("resnet-50", [256, 512, 1024, 2048], 23_508_032),  # He et al. 2016, without the classifier
        ("mobilenet-v2", [24, 32, 96, 320], None),  # Sandler et al. 2018, table 2
        ("mit-b0", [32, 64, 160, 256], None),  # Xie et al. 2021, table 6
        ("mit-b2", [64, 128, 320, 512], None),
    ],
)
def test_pyramid_is_that_of_the_paper(name: str, channels: list[int], parameters: int | None) -> None:
    backbone = build_backbone(name).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 64, 128))
    assert backbone.strides == [4, 8, 16, 32]
    assert backbone.channels == channels
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 64 // s, 128 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)
    ]
    assert parameters in (None, sum(p.numel() for p in backbone.parameters()))


@pytest.mark.parametrize(("output_stride", "strides"), [(8, [4, 8]), (16, [4, 8, 16]), (32, [4, 8, 16, 32])])
@pytest.mark.parametrize("layers", ["basic", "bottleneck"])
def test_a_dilated_resnet_reads_the_same_features_more_densely(
    output_stride: int, strides: list[int], layers: str
) -> None:
    config = ResNetConfig(**TINY_RESNET.to_diff_dict() | {"layer_type": layers}).to_dict()
    plain = build_backbone("small", config=config).eval()
    dilated = build_backbone("small", config=config, output_stride=output_stride).eval()
    dilated.load_state_dict(plain.state_dict())
    assert dilated.strides == strides
    assert dilated.channels[-1] == plain.channels[-1]
    pixels = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        coarse, fine = plain(pixels)[-1], dilated(pixels)[-1]
    step = 32 // output_stride
    assert fine.shape[-2:] == (96 // output_stride, 160 // output_stride)
    # Convolutions with holes compute, at every step-th place, what the strided ones do (Chen et al. 2017, section 3.1).
    torch.testing.assert_close(fine[..., ::step, ::step], coarse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_mobilenet_has_its_own_dilated_form(output_stride: int) -> None:
    assert build_backbone("mobilenet-v2", output_stride=output_stride).strides[-1] == output_stride


def test_others_cannot_be_dilated() -> None:
    with pytest.raises(InputError, match=r"model\.output_stride: a segformer has no dilated form"):
        build_backbone("mit-b0", output_stride=8)


def test_a_stored_classifier_gives_its_backbone(folder: Path) -> None:
    backbone = build_backbone(str(folder), weights=str(folder))
    stored = load_file(folder / "model.safetensors")
    loaded = backbone.model.state_dict()
    assert {f"resnet.{key}" for key in loaded} == {key for key in stored if key.startswith("resnet.")}
    assert all(torch.equal(stored[f"resnet.{key}"], value) for key, value in loaded.items())


def test_weights_may_come_from_elsewhere_than_the_architecture(folder: Path, tmp_path: Path) -> None:
    ResNetForImageClassification(TINY_RESNET).save_pretrained(tmp_path / "other")
    other = build_backbone(str(folder), weights=str(tmp_path / "other"))
    stored = load_file(tmp_path / "other/model.safetensors")
    assert torch.equal(
        other.model.state_dict()["embedder.embedder.convolution.weight"],
        stored["resnet.embedder.embedder.convolution.weight"],
    )


def test_a_segformer_folder_gives_its_encoder(tmp_path: Path) -> None:
    config = SegformerConfig(depths=[1] * 4, hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1] * 4)
    SegformerForImageClassification(config).save_pretrained(tmp_path)
    backbone = build_backbone(str(tmp_path), weights=str(tmp_path))
    stored, pixels = SegformerForImageClassification.from_pretrained(tmp_path), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected, found = stored.segformer(pixels, output_hidden_states=True).hidden_states, backbone.eval()(pixels)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert (backbone.strides, backbone.channels) == ([4, 8, 16, 32], [8, 16, 24, 32])


@pytest.mark.parametrize("kind", ["swin", "pvt"])
def test_any_pyramid_of_transformers_will_do(kind: str, tmp_path: Path) -> None:
    if kind == "swin":
        config = SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4)
        SwinForImageClassification(config).save_pretrained(tmp_path)
    else:
        PvtV2Backbone(
            PvtV2Config(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1] * 4)
        ).save_pretrained(tmp_path)
    backbone = build_backbone(str(tmp_path), weights=str(tmp_path))
    assert backbone.strides == [4, 8, 16, 32]
    assert [m.shape[1] for m in backbone(torch.zeros(1, 3, 64, 96))] == backbone.channels


def test_a_model_of_one_resolution_is_refused(tmp_path: Path) -> None:
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=1, patch_size=8, image_size=64)
    Dinov2Backbone(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"model\.backbone '{tmp_path}' gives maps of stride 8 alone, no pyramid"):
        build_backbone(str(tmp_path), weights=str(tmp_path))


def test_a_model_of_words_is_refused(tmp_path: Path) -> None:
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, vocab_size=99)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"model\.backbone '{tmp_path}' gives no feature maps"):
        build_backbone(str(tmp_path), weights=str(tmp_path))


def test_weights_of_another_shape_are_named(folder: Path, tmp_path: Path) -> None:
    wider = ResNetConfig(**TINY_RESNET.to_diff_dict() | {"embedding_size": 16})
    ResNetForImageClassification(wider).save_pretrained(tmp_path / "wider")
    with pytest.raises(InputError, match=r"model\.pretrained.*embedder\.embedder\.convolution\.weight"):
        build_backbone(str(folder), weights=str(tmp_path / "wider"))


def test_missing_weights_are_named(folder: Path, tmp_path: Path) -> None:
    shallower = ResNetConfig(**TINY_RESNET.to_diff_dict() | {"depths": [1, 2, 2, 1]})
    ResNetForImageClassification(shallower).save_pretrained(tmp_path / "shallower")
    with pytest.raises(InputError, match=r"model\.pretrained.*15 weights.*encoder\.stages\.3\.layers\.1"):
        build_backbone(str(folder), weights=str(tmp_path / "shallower"))


@pytest.mark.parametrize(("name", "hint"), [("resnet-100", "resnet-101"), ("mobilenetv2", "mobilenet-v2")])
def test_an_unknown_architecture_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=rf"model\.backbone: nothing lies at '{name}'.*{hint}"):
        build_backbone(name)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.backbone"):
        build_backbone(str(tmp_path), weights=str(tmp_path))


def test_a_folder_without_weights_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.pretrained: no weights can be read from"):
        build_backbone(str(folder), weights=str(tmp_path))


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/model", "a/b/c", "nowhere.pth", "some/nowhere.ckpt", "resnet-50"]
)
def test_a_path_where_nothing_lies_is_named(name: str) -> None:
    with pytest.raises(InputError, match=rf"model\.pretrained: nothing lies at '{name}'"):
        locate("model.pretrained", name)


def test_weights_that_were_cut_off_are_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(InputError, match=rf"model\.pretrained: no weights can be read from '{folder}': .*header"):
        build_backbone(str(folder), weights=str(folder))


def test_what_is_there_is_located_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.pth").touch()
    monkeypatch.chdir(tmp_path)
    assert locate("model.pretrained", "weights.pth") == str(tmp_path / "weights.pth")
    assert locate("model.backbone", "microsoft/resnet-50") == "microsoft/resnet-50"
    (tmp_path / "resnet-50").mkdir()
    assert locate("model.backbone", "resnet-50", ARCHITECTURES) == "resnet-50"


@pytest.mark.parametrize(("height", "width"), [(31, 64), (64, 31), (8, 8)])
def test_images_smaller_than_the_output_stride_are_refused(height: int, width: int) -> None:
    backbone = build_backbone("resnet-tiny")
    with pytest.raises(InputError, match=rf"images of {width}x{height} pixels .*stride 32.*data\.height"):
        backbone(torch.zeros(1, 3, height, width))
    assert backbone(torch.zeros(2, 3, 32, 32))[-1].shape[-2:] == (1, 1)


@NEEDS_MOBILENET
def test_imagenet_mobilenet_is_loaded_with_its_weights() -> None:
    backbone = build_backbone("mobilenet-v2", weights=str(MOBILENET), frozen=True)
    stored, loaded = load_file(MOBILENET / "model.safetensors"), backbone.model.state_dict()
    assert set(stored) == set(loaded)
    assert all(torch.equal(stored[key], loaded[key]) for key in stored)
