"""Decoders against their definitions, written out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from halo_ray.errors import InputError
from halo_ray.models.decoders import DeepLabV2Decoder, DeepLabV3PlusDecoder, SegformerDecoder

CHANNELS, STRIDES = [8, 12, 16], [4, 8, 16]


def pyramid(count: int = 2) -> list[torch.Tensor]:
    return [torch.randn(count, c, 96 // s, 128 // s) for c, s in zip(CHANNELS, STRIDES, strict=True)]


def test_deeplabv2_sums_dilated_convolutions_of_the_coarsest_map() -> None:
    decoder, features = DeepLabV2Decoder(CHANNELS, embedding=5), pyramid()
    expected = torch.zeros(2, 5, 6, 8)
    for branch, dilation in zip(decoder.branches, (6, 12, 18, 24), strict=True):
        nn.init.normal_(branch.bias)
        expected = expected + F.conv2d(features[-1], branch.weight, branch.bias, padding=dilation, dilation=dilation)
    torch.testing.assert_close(decoder(features), expected)


def test_segformer_head_is_that_of_the_paper() -> None:
    decoder, features = SegformerDecoder(CHANNELS, embedding=5, width=24).eval(), pyramid()
    decoder.norm.running_mean.normal_()
    decoder.norm.running_var.uniform_(0.5, 2)
    # The paper's order: project, upsample, concatenate, fuse with one convolution.
    upsampled = [
        F.interpolate(lateral(x), (24, 32), mode="bilinear", align_corners=False)
        for lateral, x in zip(decoder.lateral, features, strict=True)
    ]
    fuse = torch.cat([part.weight for part in decoder.fuse], 1)
    merged = F.relu(decoder.norm(F.conv2d(torch.cat(upsampled, 1), fuse)))
    torch.testing.assert_close(decoder(features), decoder.embed(merged), rtol=1e-4, atol=1e-5)


def test_segformer_embeds_its_fused_vectors_where_sizes_agree() -> None:
    decoder = SegformerDecoder(CHANNELS, embedding=24, width=24).eval()
    vectors = decoder(pyramid())
    assert vectors.shape == (2, 24, 24, 32)
    assert float(vectors.min()) == 0  # they come straight out of the ReLU


def test_deeplabv3plus_has_the_official_layers() -> None:
    decoder = DeepLabV3PlusDecoder([256, 2048], [4, 8], embedding=64)
    dilations = [
        {m.dilation[0] for m in branch.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)}
        for branch in decoder.branches
    ]
    assert dilations == [set(), {6}, {12}, {18}]
    assert sum(p.numel() for p in decoder.parameters()) - sum(
        m.weight.numel() + m.bias.numel() for m in decoder.modules() if isinstance(m, nn.BatchNorm2d)
    ) == 17_709_168 - 2 * 19 * 64 - (2 * (64 * 64 + 64) + 2 * 64)  # official, less its classifier and HFR
    assert decoder([torch.randn(2, 256, 12, 16), torch.randn(2, 2048, 6, 8)]).shape == (2, 64, 12, 16)


def test_deeplabv3plus_takes_the_map_of_stride_four_as_the_fine_one() -> None:
    decoder = DeepLabV3PlusDecoder([4, *CHANNELS], [2, *STRIDES], embedding=5, width=8).eval()
    features = [torch.randn(2, 4, 48, 64), *pyramid()]
    assert decoder(features).shape == (2, 5, 24, 32)
    unread = [torch.zeros_like(features[0]), features[1], torch.zeros_like(features[2]), features[3]]
    assert torch.equal(decoder(features), decoder(unread))


def test_a_single_image_has_no_batch_statistics() -> None:
    decoder = DeepLabV3PlusDecoder(CHANNELS, STRIDES, embedding=5, width=8)
    with pytest.raises(InputError, match=r"at least 2 images.*model\.frozen_batch_norm"):
        decoder.train()(pyramid(1))
    assert decoder.eval()(pyramid(1)).shape == (1, 5, 24, 32)
