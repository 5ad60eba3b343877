"""Finer features from a ResNet: dilation instead of stride."""

from __future__ import annotations

from torch import nn

from halo_ray.errors import InputError

STEM_STRIDE = 4
"""Image pixels per feature after a ResNet's first convolution and pooling."""


def dilate(model: nn.Module, output_stride: int) -> None:
    """Changes a transformers ResNet in place so that its coarsest features have ``output_stride``; weights stay.

    Stages that would go beyond lose their stride, and the convolutions that follow it are dilated by as much (Chen et
    al. 2017), as in the ResNets of torchvision and of the official HALO code.

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
        convolutions = [m for m in stage.modules() if isinstance(m, nn.Conv2d)]
        step = max(m.stride[0] for m in convolutions)
        if stride * step <= output_stride:
            stride, step = stride * step, 1
        for convolution in convolutions:
            # What had a stride still reads its input as densely as before; the rest follows it.
            reach = dilation if convolution.stride[0] > 1 else dilation * step
            if step > 1:
                convolution.stride = (1, 1)
            if convolution.kernel_size == (3, 3):
                convolution.dilation = convolution.padding = (reach, reach)
        dilation *= step
