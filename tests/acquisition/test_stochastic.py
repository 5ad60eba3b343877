import math

import torch

from halo_ray.acquisition.stochastic import stochastic_keys


def keys(score: torch.Tensor, image_id: str = "a", seed: int = 0, beta: float = 1.0) -> torch.Tensor:
    return stochastic_keys(score, beta=beta, seed=seed, image_id=image_id)


def test_infinite_beta_is_the_map_itself() -> None:
    score = torch.rand(5, 7)
    assert torch.equal(keys(score, beta=math.inf), score)


def test_first_pick_is_drawn_in_proportion_to_score_to_the_beta() -> None:
    score = torch.tensor([[1.0, 2.0, 3.0, 0.0]])
    for beta in (1.0, 2.0):
        draws = 20_000
        first = torch.tensor([int(keys(score, seed=seed, beta=beta).argmax()) for seed in range(draws)])
        found = torch.bincount(first, minlength=4) / draws
        expected = score[0] ** beta / (score[0] ** beta).sum()
        # Four standard deviations of a share of 20,000 draws.
        assert float((found - expected).abs().max()) < 4 * math.sqrt(0.25 / draws)


def test_noise_depends_on_seed_and_image_alone() -> None:
    score = torch.rand(6, 6) + 0.1
    assert torch.equal(keys(score), keys(score))
    assert not torch.equal(keys(score), keys(score, image_id="b"))
    assert not torch.equal(keys(score), keys(score, seed=1))
    noise = keys(score).double() - score.double().log()
    other = keys(score * 3).double() - (score * 3).double().log()
    torch.testing.assert_close(noise, other, atol=1e-5, rtol=0)


def test_pixels_without_score_are_never_picked() -> None:
    assert torch.isneginf(keys(torch.zeros(2, 2))).all()
