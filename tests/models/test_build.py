"""Models from configurations: strides, geometry, what is frozen, and the way through a checkpoint."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from halo_ray.checkpoint import load_model, weights_checksum, write_checkpoint
from halo_ray.errors import InputError
from halo_ray.geometry import radius
from halo_ray.models.build import ModelConfig, build_model, describe_model, located
from halo_ray.storage import Storage

MOBILENET = Path(__file__).parents[3] / "shared/weights/mobilenet_v2_imagenet"
SMALL = ModelConfig(embedding=8, decoder_width=16)
DECODERS = {"fusion": 4, "deeplabv2": 32, "deeplabv3plus": 4, "segformer": 4}
"""With the strides of their outputs, over a backbone of strides 4 to 32."""


def images(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("geometry", ["hyperbolic", "euclidean"])
@pytest.mark.parametrize("hfr", ["off", "official", "resolution-free"])
@pytest.mark.parametrize(("decoder", "stride"), DECODERS.items())
def test_logits_and_embedding_at_the_decoders_stride(decoder: str, stride: int, hfr: str, geometry: str) -> None:
    width = None if decoder == "deeplabv2" else 16
    config = replace(SMALL, decoder=decoder, decoder_width=width, hfr=hfr, geometry=geometry, curvature=2.0)
    model = build_model(config, 5)
    said = model(images())
    assert said.logits.shape == (2, 5, 64 // stride, 96 // stride)
    assert said.embedding.shape == (2, 8, 64 // stride, 96 // stride)
    assert model.curvature == (2.0 if geometry == "hyperbolic" else 0.0)
    if geometry == "hyperbolic":
        assert float(said.embedding.norm(dim=1).max()) < 1 / 2**0.5
        expected = model.head.classifier(said.embedding)
    else:
        weight, bias = model.head.classifier.weight[:, :, 0, 0], model.head.classifier.bias
        expected = torch.einsum("ndhw,cd->nchw", said.embedding, weight) + bias[:, None, None]
    torch.testing.assert_close(said.logits, expected)
    said.logits.square().sum().backward()
    # A parameter that wants a gradient and gets none makes data-parallel training fail.
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_the_resolution_free_embedding_keeps_its_scale() -> None:
    models = {hfr: build_model(replace(SMALL, hfr=hfr), 5).eval() for hfr in ("official", "resolution-free")}
    models["resolution-free"].load_state_dict(models["official"].state_dict())
    # The channels' weights are held, since they too depend on what an image shows.
    for model in models.values():
        model.reweighting.weigh.weight.data.zero_()
        model.reweighting.weigh.bias.data.fill_(0.1)
    small, large = images()[:, :32, :48], images()

    def length(hfr: str, x: torch.Tensor) -> float:
        """Root mean square over the pixels of the tangent vectors' lengths."""
        with torch.no_grad():
            return float(torch.atanh(models[hfr](x).embedding.norm(dim=1)).square().mean().sqrt())

    assert length("official", large) == pytest.approx(length("official", small) / 2, rel=1e-3)
    assert length("resolution-free", large) == pytest.approx(length("resolution-free", small), rel=1e-3)


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_hyperbolic_part_is_float32_under_autocast(decoder: str) -> None:
    width = None if decoder == "deeplabv2" else 16
    model = build_model(replace(SMALL, decoder=decoder, decoder_width=width, hfr="official"), 5)
    vectors: list[torch.dtype] = []
    model.decoder.register_forward_hook(lambda *call: vectors.append(call[2].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        said = model(images())
        said.logits.square().mean().backward()
    assert vectors == [torch.bfloat16]
    assert (said.logits.dtype, said.embedding.dtype) == (torch.float32, torch.float32)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    # From the same vectors, the head says the same to the last bit without autocast.
    with torch.no_grad():
        assert torch.equal(model.head.classifier(said.embedding), said.logits)


def test_frozen_batch_norms_are_those_of_backbone_and_decoder() -> None:
    config = replace(SMALL, decoder="deeplabv3plus", hfr="official", frozen_batch_norm=True)
    model = build_model(config, 5).train()
    before = {key: value.clone() for key, value in model.named_buffers()}
    model(images()).logits.sum().backward()
    moved = {key for key, value in model.named_buffers() if not torch.equal(before[key], value)}
    # That of the feature reweighting is a live one, as in the official code.
    assert moved == {f"reweighting.norm.{key}" for key in ("running_mean", "running_var", "num_batches_tracked")}
    assert not any("normalization" in name for name, _ in model.named_parameters())


def test_a_frozen_backbone_keeps_weights_and_statistics_in_training() -> None:
    model = build_model(replace(SMALL, frozen_backbone=True), 5).train()
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    model(images()).logits.sum().backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.decoder.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.backbone.state_dict().items())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"geometry": "euclidean"},
        {"decoder": "deeplabv3plus", "output_stride": 8, "hfr": "official", "frozen_batch_norm": True},
        {"decoder": "segformer", "backbone": "mit-b0", "hfr": "resolution-free"},
        {"decoder": "deeplabv2", "decoder_width": None, "backbone": "mobilenet-v2", "output_stride": 16},
    ],
)
def test_checkpoint_says_the_same_as_the_model(settings: dict, tmp_path: Path) -> None:
    config = replace(SMALL, curvature=0.5, **settings)
    model = build_model(config, 5)
    model(images(1))  # moves the batch norms' statistics
    storage = Storage(str(tmp_path))
    write_checkpoint(storage, "one", describe_model(config, 5, model), model, {}, {})
    again = load_model(storage, "one")
    with torch.no_grad():
        expected, found = model.eval()(images()), again(images())
    assert torch.equal(expected.logits, found.logits)
    assert torch.equal(expected.embedding, found.embedding)
    other = build_model(config, 5)
    write_checkpoint(storage, "two", describe_model(config, 5, other), other, {}, {})
    assert weights_checksum(storage, "one") != weights_checksum(storage, "two")


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"curvature": 0.0}, "curvature"),
        ({"curvature": float("inf")}, "curvature"),
        ({"embedding": 1}, "embedding"),
        ({"curvature": -1.0}, "curvature"),
        ({"curvature": float("nan")}, "curvature"),
        ({"embedding": 0}, "embedding"),
        ({"decoder_width": 12}, "decoder_width"),
        ({"pixel_std": (1.0, 0.0, 1.0)}, "pixel_std"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict, key: str) -> None:
    with pytest.raises(InputError, match=rf"model\.{key} is"):
        ModelConfig(**settings)


def test_a_width_that_nothing_uses_is_named() -> None:
    with pytest.raises(InputError, match=r"model\.decoder_width: deeplabv2"):
        ModelConfig(decoder="deeplabv2", decoder_width=64)


def test_files_are_located_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "weights.pth").touch()
    monkeypatch.chdir(tmp_path)
    config = located(ModelConfig(backbone="net", pretrained="weights.pth"))
    assert (config.backbone, config.pretrained) == (str(tmp_path / "net"), str(tmp_path / "weights.pth"))
    assert located(ModelConfig()) == ModelConfig()
    with pytest.raises(InputError, match=r"model\.pretrained: nothing lies at 'elsewhere\.pth'"):
        located(ModelConfig(pretrained="elsewhere.pth"))
    with pytest.raises(InputError, match=r"model\.backbone: nothing lies at 'resnet50'.*resnet-50"):
        located(ModelConfig(backbone="resnet50"))


@pytest.mark.parametrize("geometry", ["hyperbolic", "euclidean"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_never_leaves_the_network_in_evaluation(geometry: str, value: float) -> None:
    model = build_model(replace(SMALL, geometry=geometry), 5).eval()
    with torch.no_grad():
        model.decoder.embed.bias[3] = value
        with pytest.raises(InputError, match=r"(nan|inf) in the embedding, at index \[0, \d, 0, 0\]"):
            model(images())
        model.decoder.embed.bias[3] = 0
        model.head.classifier.normals.fill_(value) if geometry == "hyperbolic" else model.head.classifier.bias.fill_(
            value
        )
        with pytest.raises(InputError, match=r"(nan|inf) in the logits, at index"):
            model(images())


def test_images_smaller_than_the_output_stride_name_the_setting() -> None:
    with pytest.raises(InputError, match=r"images of 96x16 pixels .* data\.width and data\.height"):
        build_model(SMALL, 5)(images()[:, :16])


@pytest.mark.skipif(not MOBILENET.is_dir(), reason=f"no ImageNet weights at {MOBILENET}")
@pytest.mark.parametrize("named", ["backbone", "pretrained"])
def test_a_folder_gives_its_weights_as_backbone_and_as_pretrained(named: str) -> None:
    config = ModelConfig(**{"backbone": "mobilenet-v2", named: str(MOBILENET)})
    state = build_model(config, 5).backbone.model.state_dict()
    stored = load_file(MOBILENET / "model.safetensors")
    assert all(torch.equal(stored[key], state[key]) for key in stored)


@pytest.mark.skipif(not MOBILENET.is_dir(), reason=f"no ImageNet weights at {MOBILENET}")
def test_what_lies_behind_the_last_feature_map_is_not_trained() -> None:
    model = build_model(ModelConfig(backbone=str(MOBILENET), decoder_width=16), 5)
    assert not any(p.requires_grad for p in model.backbone.model.conv_1x1.parameters())
    assert all(p.requires_grad for p in model.backbone.model.layer.parameters())


@pytest.mark.parametrize("decoder", ["fusion", "deeplabv3plus"])
def test_hyperbolic_networks_start_where_the_ball_has_room(decoder: str) -> None:
    found = {}
    for geometry in ("hyperbolic", "euclidean"):
        torch.manual_seed(0)
        config = ModelConfig(decoder=decoder, decoder_width=32, geometry=geometry, frozen_batch_norm=True)
        images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        found[geometry] = build_model(config, 5).eval()(images).embedding.detach()
    lengths = found["euclidean"].norm(dim=1)
    # exp0 of v has the radius 2‖v‖ at curvature 1.
    torch.testing.assert_close(radius(found["hyperbolic"], 1.0), 0.2 * lengths, rtol=1e-3, atol=1e-4)
