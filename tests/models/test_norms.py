"""Frozen batch norms against live ones in evaluation mode."""

import torch
from torch import nn

from halo_ray.models.norms import FrozenBatchNorm2d, freeze_batch_norms


def network() -> nn.Sequential:
    """With statistics and weights that differ from those of a new norm."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=1e-3), nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()))
    for norm in (model[1], model[2][0]):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0, 0.1)  # so small that an epsilon shows
    return model


def test_freezing_keeps_the_function() -> None:
    model, x = network().eval(), torch.randn(2, 3, 9, 9)
    expected = model(x)
    frozen = freeze_batch_norms(model)
    torch.testing.assert_close(frozen(x), expected, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())


def test_training_moves_nothing() -> None:
    frozen = freeze_batch_norms(network()).train()
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    frozen(torch.randn(2, 3, 9, 9)).sum().backward()
    assert all(torch.equal(before[key], value) for key, value in frozen.state_dict().items())
    assert {name for name, _ in frozen.named_parameters()} == {"0.weight", "0.bias"}


def test_the_state_of_a_live_norm_means_the_same() -> None:
    live, frozen = network().eval(), freeze_batch_norms(network())
    state = live.state_dict()
    frozen.load_state_dict(state)
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(frozen(x), live(x), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(state[key], value) for key, value in live.state_dict().items())


def test_its_own_state_is_loaded_as_it_is() -> None:
    one, other = freeze_batch_norms(network()), freeze_batch_norms(network())
    other.load_state_dict(one.state_dict())
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def test_there_is_no_epsilon() -> None:
    norm = FrozenBatchNorm2d(1)
    norm.running_var.fill_(1e-12)
    assert norm(torch.full((1, 1, 1, 1), 1e-6)).item() == torch.tensor(1e-12).rsqrt().item() * 1e-6
