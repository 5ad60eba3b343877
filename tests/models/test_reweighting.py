"""Feature reweighting against the official implementation's vectors, and what must hold besides."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from halo_ray.models.reweighting import SMALLEST_WEIGHT, FeatureReweighting

VECTORS = np.load(Path(__file__).parents[1] / "reference" / "reweighting.npz")
OFFICIAL_NAMES = {"linear1": "hidden", "bn": "norm", "linear2": "weigh"}


def vector(name: str) -> Tensor:
    return torch.from_numpy(VECTORS[f"hfr/{name}"])


def official(*, resolution_free: bool = False) -> FeatureReweighting:
    """The module with the weights of the official vectors, in training mode."""
    state = {"norm.num_batches_tracked": torch.tensor(0)}
    for key in VECTORS.files:
        layer, _, part = key.removeprefix("hfr/").partition("_")
        if layer in OFFICIAL_NAMES:
            state[f"{OFFICIAL_NAMES[layer]}.{part}"] = torch.from_numpy(VECTORS[key])
    module = FeatureReweighting(8, resolution_free=resolution_free)
    module.load_state_dict(state)
    return module


def images(seed: int, count: int = 2) -> Tensor:
    return torch.randn(count, 8, 6, 9, generator=torch.Generator().manual_seed(seed))


def channel_norms(vectors: Tensor) -> Tensor:
    return vectors.flatten(2).norm(dim=2)


@pytest.mark.parametrize("mode", ["eval", "train"])
class TestOfficialVectors:
    @torch.no_grad()
    def test_output(self, mode: str) -> None:
        ours, reference = official().train(mode == "train")(vector("input")), vector(f"output_{mode}")
        assert ours.dtype == reference.dtype
        assert float((ours - reference).abs().max()) <= 1e-5 * float(reference.abs().max())

    @torch.no_grad()
    def test_resolution_free_output_is_larger_by_the_root_of_the_positions(self, mode: str) -> None:
        ours = official(resolution_free=True).train(mode == "train")(vector("input"))
        reference = vector(f"output_{mode}") * math.sqrt(12 * 20)
        assert float((ours - reference).abs().max()) <= 1e-5 * float(reference.abs().max())


def test_the_official_modes_differ() -> None:
    """So that the vectors tell the batch's statistics from the running ones."""
    apart = (vector("output_eval") - vector("output_train")).abs().max()
    assert float(apart) > 0.01 * float(vector("output_eval").abs().max())


def test_training_moves_the_running_statistics_and_evaluation_does_not() -> None:
    module = official().eval()
    module(vector("input"))
    assert torch.equal(module.norm.running_mean, vector("bn_running_mean"))
    assert torch.equal(module.norm.running_var, vector("bn_running_var"))
    module.train()(vector("input"))
    # A tenth of the way, to the mean and the unbiased variance over all positions of both images.
    hidden = F.linear(vector("input").permute(0, 2, 3, 1), vector("linear1_weight"), vector("linear1_bias"))
    var, mean = torch.var_mean(hidden.double().flatten(0, 2), 0)
    expected_mean = 0.9 * vector("bn_running_mean") + 0.1 * mean
    torch.testing.assert_close(module.norm.running_mean.double(), expected_mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(module.norm.running_var.double(), 0.9 * vector("bn_running_var") + 0.1 * var)
    assert int(module.norm.num_batches_tracked) == 1


@pytest.mark.parametrize(("resolution_free", "factor"), [(True, 1.0), (False, 0.5)])
@torch.no_grad()
def test_vectors_of_a_tiled_image_keep_their_lengths_only_if_resolution_free(
    resolution_free: bool, factor: float
) -> None:
    module = official(resolution_free=resolution_free).eval()
    once, tiled = module(images(0)), module(images(0).tile(2, 2))
    torch.testing.assert_close(tiled, factor * once.tile(2, 2))
    torch.testing.assert_close(tiled.norm(dim=1), factor * once.norm(dim=1).tile(2, 2))


@torch.no_grad()
def test_every_channel_has_its_weight_for_length() -> None:
    """The weights written as the paper has them: the mean over positions of the last layer's output."""
    module, x = official().eval(), images(1)
    at_places = module.weigh(F.relu(module.norm(module.hidden(x.permute(0, 2, 3, 1).flatten(0, 2)))))
    weights = at_places.view(2, 6 * 9, 8).mean(1)
    assert bool((weights < 0).any())
    assert bool((weights > 0).any())
    torch.testing.assert_close(channel_norms(module(x)), weights.clamp_min(1e-5))
    torch.testing.assert_close(F.normalize(module(x).flatten(2), dim=2), F.normalize(x.flatten(2), dim=2))


@pytest.mark.parametrize("resolution_free", [False, True])
@torch.no_grad()
def test_weights_are_at_least_the_smallest(resolution_free: bool) -> None:
    module = official(resolution_free=resolution_free).eval()
    before = channel_norms(module(images(2)))
    module.weigh.bias[3] = -10
    after = channel_norms(module(images(2)))
    assert SMALLEST_WEIGHT == 1e-5
    expected = before.clone()
    expected[:, 3] = 1e-5 * (math.sqrt(6 * 9) if resolution_free else 1)
    assert bool((before[:, 3] > 100 * expected[:, 3]).all())
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dead", ["one channel", "all channels"])
def test_a_channel_of_zeros_stays_zero_and_has_finite_gradients(dead: str, training: bool) -> None:
    x = images(3)
    channels = slice(5, 6) if dead == "one channel" else slice(None)
    x[:, channels] = 0
    x.requires_grad_()
    module = official().train(training)
    out = module(x)
    assert bool((out[:, channels] == 0).all())
    assert torch.isfinite(out).all()
    out.square().sum().backward()
    for name, part in [("x", x), *module.named_parameters()]:
        assert torch.isfinite(part.grad).all(), name


@pytest.mark.parametrize("training", [False, True])
def test_autocast_changes_no_bit(training: bool) -> None:
    x = images(4)
    plain = official().train(training)
    expected = plain(x)
    module = official().train(training)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.linear(x.mT, torch.ones(6, 6)).dtype == torch.bfloat16
        inside = module(x)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, expected)
    for gradient, reference in zip(
        torch.autograd.grad(inside.square().sum(), list(module.parameters())),
        torch.autograd.grad(expected.square().sum(), list(plain.parameters())),
        strict=True,
    ):
        assert torch.equal(gradient, reference)


def test_half_precision_input_is_computed_in_float32() -> None:
    module, x = official().eval(), images(5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        of_half = module(x)
    assert of_half.dtype == torch.float32
    assert torch.equal(of_half, module(x.float()))


@pytest.mark.parametrize("resolution_free", [False, True])
def test_gradcheck(resolution_free: bool) -> None:
    torch.manual_seed(0)
    module = FeatureReweighting(3, resolution_free=resolution_free).double().eval()
    x = torch.randn(2, 3, 1, 3, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        # One weight lies at the bound, the others above it.
        module.weigh.bias.copy_(torch.tensor([1.0, -2.0, 1.0]))
        before_relu = module.norm(module.hidden(x.permute(0, 2, 3, 1).flatten(0, 2)))
    assert float(before_relu.abs().min()) > 1e-4  # the kink of the rectifier
    assert bool((channel_norms(module(x.detach()))[:, 1] < 1e-3).all())
    parameters = dict(module.named_parameters())

    def reweighted(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(parameters, values, strict=True)), x)

    assert torch.autograd.gradcheck(reweighted, (x, *parameters.values()))


@torch.no_grad()
def test_images_of_a_batch_do_not_influence_one_another_in_evaluation() -> None:
    batch, module = images(6), official().eval()
    other = torch.stack([batch[0], images(7)[1] * 5])
    together, changed = module(batch), module(other)
    assert torch.equal(together[0], changed[0])
    assert not torch.equal(together[1], changed[1])
    for index in range(2):
        torch.testing.assert_close(module(batch[index : index + 1])[0], together[index])
    # In training they share the batch norm's statistics.
    module.train()
    assert float((module(batch)[0] - module(other)[0]).abs().max()) > 0.01 * float(together.abs().max())
