"""Finer features from a ResNet: dilation instead of stride."""

from __future__ import annotations

from torch import nn

from halo_ray.errors import InputError

STEM_STRIDE = 4
"""Image pixels per feature after a ResNet's first convolution and pooling."""


def dilate(model: nn.Module, output_stride: int) -> None:
    """Changes a transformers ResNet in place so that its coarsest features have ``output_stride``; weights stay.

    Stages that would go beyond lose their stride, and the convolutions after it are dilated by as much (Chen et al.
    2017). The first block of such a stage still sees its input at the dilation before, as in the ResNets of torchvision
    and of the official HALO code.

    Raises:
        InputError: ``model`` is no ResNet.
    """
    if model.config.model_type != "resnet":  # type: ignore[union-attr]
        raise InputError(
            f"model.output_stride: a {model.config.model_type} has no dilated form: "  # type: ignore[union-attr]
            "leave it out, or take a ResNet or MobileNetV2"
        )
    stride, dilation = STEM_STRIDE, 1
    for stage in model.encoder.stages:  # type: ignore[union-attr]
        before = dilation
        for number, block in enumerate(stage.layers):
            convolutions = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
            if number == 0:
                step = max(m.stride[0] for m in convolutions)
                if stride * step > output_stride:
                    dilation *= step
                    for convolution in convolutions:
                        convolution.stride = (1, 1)
                else:
                    stride *= step
            for convolution in convolutions:
                if convolution.kernel_size == (3, 3):
                    reach = before if number == 0 else dilation
                    convolution.dilation = convolution.padding = (reach, reach)
