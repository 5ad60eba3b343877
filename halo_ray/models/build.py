"""All wiring of models: from the configuration to a network, and to and from a checkpoint's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonargparse
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from halo_ray.bounds import Range, check_ranges
from halo_ray.checkpoint_files import read_checkpoint_file
from halo_ray.data.classes import IGNORE
from halo_ray.errors import InputError, one_line
from halo_ray.models.backbones import ARCHITECTURES, Backbone, architecture, build_backbone, locate
from halo_ray.models.decoders import DeepLabV2Decoder, DeepLabV3PlusDecoder, FusionDecoder, SegformerDecoder
from halo_ray.models.described import check_backbone_config, check_weights, offline, without_data
from halo_ray.models.norms import freeze_batch_norms
from halo_ray.models.pretrained import load_pretrained
from halo_ray.models.reweighting import FeatureReweighting
from halo_ray.models.segmenter import EuclideanHead, HyperbolicHead, Segmenter
from halo_ray.storage import Storage

MOST_CHANNELS = 4096
"""Of an embedding or decoder; several times what any published one has."""


@dataclass(frozen=True)
class ModelConfig:
    """The segmentation network."""

    backbone: str = "resnet-tiny"
    """Architecture: resnet-tiny, resnet-50, resnet-101, mobilenet-v2, mit-b0 to mit-b5, or a folder in the transformers
    format or hub id of any model with a feature pyramid, whose weights it begins with."""
    pretrained: str = ""
    """Weights to begin with instead: a folder in the transformers format, a hub id, torchvision's state dict of a
    ResNet, or a whole network from a checkpoint directory of this package or an official HALO checkpoint (.pth, .ckpt);
    empty: those of model.backbone, or random ones."""
    frozen_backbone: bool = False
    """Keep the backbone's weights as they are."""
    frozen_batch_norm: bool = False
    """Keep statistics and weights of all batch norms of backbone and decoder as they are (official for ResNets)."""
    output_stride: Literal[8, 16, 32] | None = None
    """Image pixels per feature of the coarsest map, by dilation of a ResNet or MobileNetV2 (official: 8); null: 32."""
    decoder: Literal["fusion", "deeplabv2", "deeplabv3plus", "segformer"] = "fusion"
    """fusion is small and needs no batch statistics; the others are those of the papers."""
    decoder_width: Annotated[int | None, Range(8, MOST_CHANNELS)] = None
    """Channels inside the decoder, a multiple of 8; null: 64 in fusion, 512 in deeplabv3plus, in segformer 768, or 256
    over backbones of at most 8 blocks (mit-b0, mit-b1); deeplabv2 has none."""
    geometry: Literal["hyperbolic", "euclidean"] = "hyperbolic"
    """Space of the embedding."""
    curvature: Annotated[float, Range(1e-4, 1e4)] = 1.0
    """Curvature c > 0 of the Poincaré ball of curvature −c (no unit); unused by Euclidean models."""
    embedding: Annotated[int, Range(2, MOST_CHANNELS)] = 64
    """Dimensions D of the embedding."""
    hfr: Literal["off", "official", "resolution-free"] = "off"
    """Hyperbolic feature reweighting before the embedding; resolution-free keeps its scale at every image size."""
    frozen_hfr_norm: bool = False
    """Keep the statistics of the feature reweighting's batch norm as they are."""
    pixel_mean: Annotated[tuple[float, float, float], Range(-100, 100)] = (0.485, 0.456, 0.406)
    """Mean of each colour channel (0..1) that the backbone was trained with."""
    pixel_std: Annotated[tuple[float, float, float], Range(1e-3, 100)] = (0.229, 0.224, 0.225)
    """Standard deviation of each colour channel (0..1) that the backbone was trained with."""

    def __post_init__(self) -> None:
        check_ranges(self, "model.")
        width = self.decoder_width
        if width is not None and width % 8:
            raise InputError(f"model.decoder_width is {width}: it must be a multiple of 8")
        if width is not None and self.decoder == "deeplabv2":
            raise InputError("model.decoder_width: deeplabv2 goes straight to the embedding and has none: leave it out")

    @property
    def has_live_norms(self) -> bool:
        """Whether there may be batch norms that gather statistics in training."""
        return not self.frozen_batch_norm or (self.hfr != "off" and not self.frozen_hfr_norm)


MODEL_FILE, WEIGHTS_FILE = "model.json", "model.safetensors"
"""What a checkpoint directory holds: the architecture and its weights."""

_SHAPED_BY = (
    "geometry",
    "curvature",
    "embedding",
    "decoder",
    "decoder_width",
    "hfr",
    "output_stride",
    "frozen_batch_norm",
    "pixel_mean",
    "pixel_std",
)
"""Settings that a checkpoint's network must have been built with."""


_BACKBONE_SHAPED_BY = ("model_type", "hidden_sizes", "depths", "layer_type", "embedding_size", "depth_multiplier")
"""The same of a transformers configuration."""


START_LENGTH = 0.1
"""Length of a hyperbolic network's first vectors, in units of what random weights give."""


def located(config: ModelConfig) -> ModelConfig:
    """``config`` with the files and folders that it names by absolute path, for processes in other directories.

    Raises:
        InputError: one of them is not there.
    """
    return replace(
        config,
        backbone=locate("model.backbone", config.backbone, ARCHITECTURES),
        pretrained=config.pretrained and locate("model.pretrained", config.pretrained),
    )


def build_model(config: ModelConfig, classes: int) -> Segmenter:
    """The network that ``config`` describes, with the weights that it begins with.

    Raises:
        InputError: a setting names nothing that can be built; the message says which.
    """
    file = Path(config.pretrained).is_file()
    if config.pretrained and (Path(config.pretrained) / MODEL_FILE).is_file():
        return _from_checkpoint(config, classes)
    own = None if config.backbone in ARCHITECTURES else config.backbone
    model = _keep_unused_from_training(_assemble(config, classes, weights=None if file else config.pretrained or own))
    if file:
        load_pretrained(model, config.pretrained)
    return model


def _from_checkpoint(config: ModelConfig, classes: int) -> Segmenter:
    """The network of a checkpoint directory, which must be the one that ``config`` describes."""
    folder = Path(config.pretrained)
    try:
        storage = Storage(str(folder))
        description = json.loads(read_checkpoint_file(storage, "", MODEL_FILE))
        there = {**description["model"], "classes": description["classes"]}
        backbone, named = dict(description["backbone"]), description["model"]["backbone"]
        weights = load(read_checkpoint_file(storage, "", WEIGHTS_FILE))
    except (InputError, OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise InputError(f"model.pretrained: checkpoint {folder} cannot be read: {one_line(error)}") from error
    wanted = {**json.loads(json.dumps(asdict(config))), "classes": classes}
    differ = [key for key in (*_SHAPED_BY, "classes") if there.get(key) != wanted[key]]
    if differ:
        raise InputError(
            f"model.pretrained: checkpoint {folder} is of another network: "
            + ", ".join(f"{_setting(key)} is {there.get(key)} there and {wanted[key]} here" for key in differ)
        )
    if not _same_backbone(config.backbone, str(named), backbone):
        raise InputError(
            f"model.pretrained: checkpoint {folder} is of another network: model.backbone is "
            f"{named} there and {config.backbone} here"
        )
    try:
        model = _rebuilt(config, classes, backbone, weights)
        model.load_state_dict(weights)
    except Exception as error:  # a damaged description makes transformers raise anything
        raise InputError(
            f"model.pretrained: checkpoint {folder} does not fit its own description ({one_line(error)}): restore it "
            "from a copy"
        ) from error
    return model


def _same_backbone(name: str, there: str, backbone: dict[str, Any]) -> bool:
    """Whether ``name`` is the architecture of a checkpoint, which was called ``there``; nothing is fetched for that."""
    if name == there and name not in ARCHITECTURES and not Path(name).exists():
        return True  # a hub id
    with offline():
        own = architecture(name)
    return all(own.get(key) == backbone.get(key) for key in _BACKBONE_SHAPED_BY)


def _setting(key: str) -> str:
    return "the number of classes (data.class_set)" if key == "classes" else f"model.{key}"


def describe_model(config: ModelConfig, classes: int, model: Segmenter) -> dict[str, Any]:
    """All that rebuild_model needs, as JSON."""
    return {"model": asdict(config), "classes": classes, "backbone": model.backbone.config}


def rebuild_model(description: dict[str, Any], weights: Mapping[str, Tensor]) -> Segmenter:
    """The architecture that describe_model described, with random weights in the shapes of ``weights``.

    Whoever wrote the description, nothing is looked up in any hub, and nothing larger than the weights is allocated.

    Raises:
        InputError: a key cannot be used, or the weights are of another network.
    """
    try:
        config = _described(description["model"])
        return _rebuilt(config, description["classes"], description["backbone"], weights)
    except InputError:
        raise
    except Exception as error:  # a damaged description makes transformers raise anything
        raise InputError(f"{MODEL_FILE} describes no network ({one_line(error)}): restore it from a copy") from error


def _described(settings: dict[str, Any]) -> ModelConfig:
    """The settings of a stored network; what they name is not used, since the network is described beside them."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ModelConfig)
    parsed = parser.parse_object({**settings, "backbone": MODEL_FILE, "pretrained": ""}).as_dict()
    missing = [item.name for item in fields(ModelConfig) if parsed[item.name] is None and item.default is not None]
    if missing:
        raise InputError(f"{MODEL_FILE}: model.{missing[0]} is null: restore it from a copy")
    return ModelConfig(**parsed)


def _rebuilt(config: ModelConfig, classes: Any, backbone: Any, weights: Mapping[str, Tensor]) -> Segmenter:
    if not isinstance(classes, int):
        raise InputError(f"{MODEL_FILE}: classes is no number: restore it from a copy")
    Range(1, IGNORE).check(f"{MODEL_FILE}: classes", classes)
    check_backbone_config(backbone, f"{MODEL_FILE}: backbone")
    with offline():
        with without_data(weights):
            check_weights(_assemble(config, classes, backbone_config=backbone), weights)
        return _keep_unused_from_training(_assemble(config, classes, backbone_config=backbone))


def _assemble(
    config: ModelConfig, classes: int, *, weights: str | None = None, backbone_config: dict[str, Any] | None = None
) -> Segmenter:
    backbone = build_backbone(
        config.backbone,
        weights=weights,
        frozen=config.frozen_backbone,
        output_stride=config.output_stride,
        config=backbone_config,
    )
    reweighting = None
    if config.hfr != "off":
        reweighting = FeatureReweighting(
            config.embedding,
            resolution_free=config.hfr == "resolution-free",
            frozen_statistics=config.frozen_hfr_norm,
        )
    decoder = _decoder(config, backbone)
    head: nn.Module = EuclideanHead(config.embedding, classes)
    if config.geometry == "hyperbolic":
        head = HyperbolicHead(config.embedding, classes, curvature=config.curvature)
        if reweighting is None:  # which sets the lengths itself
            _start_near_origin(decoder)
    model = Segmenter(
        backbone,
        decoder,
        head,
        reweighting=reweighting,
        mean=config.pixel_mean,
        std=config.pixel_std,
    )
    if config.frozen_batch_norm:
        freeze_batch_norms(model)
    return model


def _decoder(config: ModelConfig, backbone: Backbone) -> nn.Module:
    size, channels, strides = config.embedding, backbone.channels, backbone.strides
    if config.decoder == "deeplabv2":
        return DeepLabV2Decoder(channels, embedding=size)
    if config.decoder == "deeplabv3plus":
        return DeepLabV3PlusDecoder(channels, strides, embedding=size, width=config.decoder_width or 512)
    if config.decoder == "segformer":
        # Xie et al. 2021: a wide head from B2 on, which have more than 8 blocks.
        wide = sum(backbone.config.get("depths", ())) > 8
        return SegformerDecoder(channels, embedding=size, width=config.decoder_width or (768 if wide else 256))
    return FusionDecoder(channels, strides, embedding=size, width=config.decoder_width or 64)


def _start_near_origin(decoder: nn.Module) -> None:
    """Shortens the vectors that a decoder with random weights gives.

    As layers start by default, the points would lie at two thirds of the largest radius and up to the rim, where exp0
    has lost its gradient; tenfold closer, a network on CamVid reached 1.8 points of mIoU more on the shifted domain.
    """
    layer = getattr(decoder, "embed", None)
    if isinstance(layer, nn.Conv2d):
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(START_LENGTH)


def _keep_unused_from_training(model: Segmenter) -> Segmenter:
    """Parameters that the logits do not depend on never get a gradient, and would make data-parallel training wait."""
    side = 2 * int(model.backbone.strides[-1])  # type: ignore[index]
    parameters = [p for p in model.parameters() if p.requires_grad]
    logits = model.eval().segment(torch.zeros(1, 3, side, side)).logits
    gradients = torch.autograd.grad(logits.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    model.train()
    return model
