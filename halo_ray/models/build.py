"""All wiring of models: from the configuration to a network, and to and from a checkpoint's files."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from halo_ray.errors import InputError
from halo_ray.models.backbones import build_backbone
from halo_ray.models.decoders import FusionDecoder
from halo_ray.models.segmenter import EuclideanHead, HyperbolicHead, Segmenter


@dataclass(frozen=True)
class ModelConfig:
    """The segmentation network."""

    backbone: str = "resnet-tiny"
    """resnet-tiny (from random weights), a folder in the transformers format, or a hub id."""
    frozen_backbone: bool = False
    """Keep the backbone's weights as they are."""
    geometry: Literal["hyperbolic", "euclidean"] = "hyperbolic"
    """Space of the embedding."""
    curvature: float = 1.0
    """Curvature c > 0 of the Poincaré ball of curvature −c (no unit); unused by Euclidean models."""
    embedding: int = 64
    """Dimensions D of the embedding."""
    decoder_width: int = 64
    """Channels inside the decoder, a multiple of 8."""
    pixel_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of each colour channel (0..1) that the backbone was trained with."""
    pixel_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of each colour channel (0..1) that the backbone was trained with."""

    def __post_init__(self) -> None:
        if not (self.curvature > 0 and math.isfinite(self.curvature)):
            raise InputError(f"model.curvature is {self.curvature}: it must be a number above 0")
        if self.embedding < 2:
            raise InputError(f"model.embedding is {self.embedding}: it must be at least 2")
        if self.decoder_width < 8 or self.decoder_width % 8:
            raise InputError(f"model.decoder_width is {self.decoder_width}: it must be a multiple of 8")
        if min(self.pixel_std) <= 0:
            raise InputError(f"model.pixel_std is {list(self.pixel_std)}: each number must be above 0")


def build_model(config: ModelConfig, classes: int, *, backbone_config: dict[str, Any] | None = None) -> Segmenter:
    """The network that ``config`` describes, its backbone with pretrained weights where ``backbone_config`` is None."""
    backbone = build_backbone(config.backbone, frozen=config.frozen_backbone, config=backbone_config)
    decoder = FusionDecoder(backbone.channels, backbone.strides, embedding=config.embedding, width=config.decoder_width)
    head = (
        HyperbolicHead(config.embedding, classes, curvature=config.curvature)
        if config.geometry == "hyperbolic"
        else EuclideanHead(config.embedding, classes)
    )
    return Segmenter(backbone, decoder, head, mean=config.pixel_mean, std=config.pixel_std)


def describe_model(config: ModelConfig, classes: int, model: Segmenter) -> dict[str, Any]:
    """All that rebuild_model needs, as JSON."""
    return {"model": asdict(config), "classes": classes, "backbone": model.backbone.config}


def rebuild_model(description: dict[str, Any]) -> Segmenter:
    """The architecture that describe_model described, with random weights."""
    config = ModelConfig(**description["model"])
    return build_model(config, description["classes"], backbone_config=description["backbone"])
