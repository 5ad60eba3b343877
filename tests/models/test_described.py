"""Networks from the descriptions of checkpoints: any pyramid comes back, nothing is looked up, nothing huge is made."""

from __future__ import annotations

import json
import resource
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from halo_ray.errors import InputError
from halo_ray.models.backbones import build_backbone
from halo_ray.models.build import ModelConfig, build_model, describe_model, rebuild_model
from halo_ray.models.described import offline

SMALL = ModelConfig(embedding=8, decoder_width=16)

FOUR = [8, 16, 24, 32]
PYRAMIDS: dict[str, dict[str, Any]] = {
    "bit": {"embedding_size": 8, "hidden_sizes": [16, 32, 48, 64], "depths": [1] * 4, "num_groups": 4},
    "convnext": {"hidden_sizes": FOUR, "depths": [1] * 4},
    "dinov3_convnext": {"hidden_sizes": FOUR, "depths": [1] * 4},
    "focalnet": {"embed_dim": 8, "depths": [1] * 4},
    "glpn": {"hidden_sizes": FOUR, "depths": [1] * 4, "num_attention_heads": [1] * 4},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.35},
    "poolformer": {"hidden_sizes": FOUR, "depths": [1] * 4},
    "pvt_v2": {"hidden_sizes": FOUR, "depths": [1] * 4, "num_attention_heads": [1] * 4},
    "regnet": {"embedding_size": 8, "hidden_sizes": FOUR, "depths": [1] * 4, "groups_width": 8},
    "resnet": {"embedding_size": 8, "hidden_sizes": FOUR, "depths": [1] * 4, "layer_type": "basic"},
    "segformer": {"hidden_sizes": FOUR, "depths": [1] * 4, "num_attention_heads": [1] * 4},
    "swin": {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 4},
    "swinv2": {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 4},
}
"""Small ones of the models that give a pyramid."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Everything that this process wants of the network; it gets nothing."""
    found: list[str] = []

    def refuse(*what: Any, **_: Any) -> None:
        found.append(str(what))
        raise OSError("there is no network")

    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    return found


def described(config: ModelConfig = SMALL) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The description of a network, through JSON, and its weights."""
    model = build_model(config, 3)
    return json.loads(json.dumps(describe_model(config, 3, model))), dict(model.state_dict())


@pytest.fixture(scope="module")
def tiny() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    return described()


def changed(tiny: tuple[dict[str, Any], dict[str, torch.Tensor]], **keys: Any) -> dict[str, Any]:
    """The description with other keys in its backbone."""
    return {**tiny[0], "backbone": {**tiny[0]["backbone"], **keys}}


@pytest.mark.parametrize("kind", PYRAMIDS)
def test_any_pyramid_comes_back_from_its_configuration_alone(
    kind: str, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = AutoConfig.for_model(kind, **PYRAMIDS[kind])
    settings.auto_map = {"AutoModel": "owner/repo--modeling.Model"}  # as in many repositories, for older versions
    settings.save_pretrained(tmp_path / "net")
    backbone = build_backbone(str(tmp_path / "net"))
    found = json.loads(json.dumps(backbone.config))
    assert str(tmp_path) not in json.dumps(found)
    monkeypatch.setattr("halo_ray.models.build.build_backbone", lambda *_, **__: backbone)
    whole = build_model(SMALL, 3)
    monkeypatch.undo()
    description = {**describe_model(SMALL, 3, whole), "backbone": found}
    again = rebuild_model(description, whole.state_dict())
    again.load_state_dict(whole.state_dict())
    images = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(again.eval()(images).logits, whole.eval()(images).logits)
    assert asked == []


def test_default_values_of_the_keys_that_are_refused_are_allowed(tiny: Any) -> None:
    usual = {
        "use_pretrained_backbone": False, "use_timm_backbone": False, "backbone": None, "backbone_kwargs": None,
        "_attn_implementation": None, "quantization_config": None, "_name_or_path": "", "auto_map": {},
    }  # fmt: skip
    again = rebuild_model(changed(tiny, **usual), tiny[1])
    again.load_state_dict(tiny[1])


HOSTILE: dict[str, dict[str, Any]] = {
    "backbone": {"backbone": "owner/repo", "use_pretrained_backbone": True},
    "use_timm_backbone": {"use_timm_backbone": True},
    "backbone_kwargs": {"backbone_kwargs": {"pretrained": True}},
    "_attn_implementation": {"_attn_implementation": "owner/repo"},
    "attn_implementation": {"attn_implementation": "owner/repo"},
    "_attn_implementation_internal": {"_attn_implementation_internal": "owner/repo"},
    "experts_implementation": {"experts_implementation": "owner/repo"},
    "attribute_map": {"attribute_map": {"hidden_act": "_attn_implementation"}, "hidden_act": "owner/repo"},
    "auto_map": {"auto_map": {"AutoConfig": "owner/repo--code.Config"}, "trust_remote_code": True},
    "trust_remote_code": {"trust_remote_code": True},
    "quantization_config": {"quantization_config": {"quant_method": "gptq", "dataset": "owner/repo"}},
    "_name_or_path": {"_name_or_path": "owner/repo"},
    "name_or_path": {"name_or_path": "owner/repo"},
    "to_dict": {"to_dict": [1]},
    "use_pretrained_backbone": {
        "model_type": "detr", "backbone_config": {"model_type": "resnet", "use_pretrained_backbone": True}
    },
    "pretrained": {"anything": [{"below": {"pretrained": "https://host.invalid/x.pth"}}]},
}  # fmt: skip


@pytest.mark.parametrize("key", HOSTILE)
def test_a_key_that_names_a_place_is_refused_and_nothing_is_looked_up(tiny: Any, key: str, asked: list[str]) -> None:
    with pytest.raises(InputError, match=rf"model\.json: backbone\.\S*\b{key} is set"):
        rebuild_model(changed(tiny, **HOSTILE[key]), tiny[1])
    assert asked == []


@pytest.mark.parametrize(
    "backbone",
    [{}, None, [], 3, "owner/repo", {"model_type": "timm_backbone"}, {"model_type": "timm_wrapper"},
     {"model_type": "detr"}, {"model_type": "upernet"}, {"model_type": "mask2former"}, {"model_type": "owner/repo"}],
)  # fmt: skip
@pytest.mark.parametrize("name", ["owner/repo", "resnet-tiny"])
def test_a_description_without_a_backbone_of_its_own_is_refused(
    tiny: Any, backbone: Any, name: str, asked: list[str]
) -> None:
    description = {**tiny[0], "backbone": backbone, "model": {**tiny[0]["model"], "backbone": name}}
    with pytest.raises(InputError, match=r"model\.json"):
        rebuild_model(description, tiny[1])
    assert asked == []


def test_what_a_checkpoint_was_called_is_not_looked_up(tiny: Any, asked: list[str]) -> None:
    named = {**tiny[0]["model"], "backbone": "owner/repo", "pretrained": "owner/weights"}
    rebuild_model({**tiny[0], "model": named}, tiny[1]).load_state_dict(tiny[1])
    assert asked == []


@pytest.mark.parametrize("other", [False, True])
def test_training_begins_with_a_checkpoint_of_a_hubs_model_without_the_hub(
    tiny: Any, tmp_path: Path, other: bool, asked: list[str]
) -> None:
    description = {**tiny[0], "model": {**tiny[0]["model"], "backbone": "owner/repo"}}
    (tmp_path / "model.json").write_text(json.dumps(description))
    save_file(tiny[1], tmp_path / "model.safetensors")
    start = replace(SMALL, backbone="owner/other" if other else "owner/repo", pretrained=str(tmp_path))
    if other:
        with pytest.raises(InputError, match=r"model\.backbone 'owner/other'"):
            build_model(start, 3)
    else:
        found = build_model(start, 3).state_dict()
        assert all(torch.equal(found[key], value) for key, value in tiny[1].items())
    assert asked == []


def test_without_the_guards_the_network_would_be_asked(asked: list[str]) -> None:
    """What the tests above prove would be nothing if transformers looked nothing up."""
    config = {"model_type": "detr", "backbone": "owner/repo", "use_timm_backbone": False}
    with pytest.raises(Exception, match=r".") as refused, offline():
        AutoConfig.for_model(**config)
    assert "offline" in str(refused.value)
    assert asked == []
    with pytest.raises(Exception, match=r"."):
        AutoConfig.for_model(**config)
    assert asked


def test_hubs_stay_away_until_the_last_load_is_over() -> None:
    from huggingface_hub import constants

    seen = []

    def load() -> None:
        with offline():
            seen.append(constants.HF_HUB_OFFLINE)

    with offline():
        thread = threading.Thread(target=load)
        thread.start()
        load()
        assert constants.HF_HUB_OFFLINE
    thread.join(10)
    assert seen == [True, True]
    assert not constants.HF_HUB_OFFLINE


LARGE = 60_000
BOMBS: dict[str, dict[str, Any]] = {
    "wide": {"hidden_sizes": [10**9] * 4},
    "wide within the limit": {"hidden_sizes": [15_000] * 4},
    "deep": {"depths": [10**9, 1, 1, 1]},
    "deep within the limit": {"depths": [LARGE, 1, 1, 1]},
    "many stages": {"depths": [1] * LARGE, "hidden_sizes": [8] * 7_000},
    "sum": {"depths": [LARGE] * 40_000},
    "huge": {"embedding_size": 2**63},
    "labels": {"num_labels": 10**9},
    "tables": {"model_type": "swin", "window_size": LARGE},
    "tables within reason": {"model_type": "swin", "window_size": 500},
    "positions": {"model_type": "hiera", "image_size": [LARGE, 1], "patch_stride": [1, 1]},
    "factor": {"model_type": "segformer", "mlp_ratios": [1e9] * 4},
    "infinite factor": {"model_type": "segformer", "mlp_ratios": [1e308] * 4},
    "padding": {"model_type": "poolformer", "padding": [LARGE, 1, 1, 1], "hidden_sizes": FOUR},
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", BOMBS)
def test_a_description_allocates_no_more_than_its_weights(tiny: Any, what: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError):
        rebuild_model(changed(tiny, **BOMBS[what]), tiny[1])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"embedding": 4096}, "head.classifier"),
        ({"embedding": 10**9}, "model.embedding"),
        ({"embedding": None}, "model.embedding"),
        ({"decoder_width": 4096, "decoder": "deeplabv3plus"}, "larger network"),
        ({"decoder_width": 24}, "decoder."),
        ({"geometry": "euclidean"}, "head.classifier"),
        ({"geometry": "flat"}, "geometry"),
        ({"geometry": None}, "model.geometry"),
        ({"hfr": "x"}, "hfr"),
        ({"curvature": "x"}, "curvature"),
        ({"curvature": 1e308}, "model.curvature"),
        ({"pixel_mean": [1, 2]}, "pixel_mean"),
        ({"colour": 3}, "colour"),
    ],
)
def test_settings_of_another_network_are_refused(tiny: Any, keys: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        rebuild_model({**tiny[0], "model": {**tiny[0]["model"], **keys}}, tiny[1])


@pytest.mark.parametrize("classes", [0, 256, 10**9, 2**64, -1, None, "3", 3.0, [3]])
def test_another_number_of_classes_is_refused(tiny: Any, classes: Any) -> None:
    with pytest.raises(InputError, match="classes"):
        rebuild_model({**tiny[0], "classes": classes}, tiny[1])


@pytest.mark.parametrize("how", ["without one", "with one more", "of another shape"])
def test_weights_of_another_network_are_refused_before_it_is_made(tiny: Any, how: str) -> None:
    weights, key = dict(tiny[1]), "decoder.embed.weight"
    if how == "with one more":
        key = "decoder.another"
        weights[key] = torch.zeros(1)
    else:
        weights[key] = torch.zeros(1)
    if how == "without one":
        del weights[key]
    with pytest.raises(InputError, match=key):
        rebuild_model(tiny[0], weights)
