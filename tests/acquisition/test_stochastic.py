import hashlib
import math

import numpy as np
import pytest
import torch

from halo_ray.acquisition.stochastic import stochastic_keys, uniform_noise
from halo_ray.errors import InputError


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


def test_noise_of_a_pixel_does_not_depend_on_the_size_of_the_map() -> None:
    small, large = uniform_noise((5, 6), 0, "a"), uniform_noise((9, 11), 0, "a")
    assert torch.equal(small, large[:5, :6])
    assert not torch.equal(small[0], small[1])


def test_noise_is_uniform() -> None:
    """Kolmogorov-Smirnov distance to the uniform distribution, over all, and within rows and columns."""
    noise = uniform_noise((300, 300), 3, "image").numpy()
    assert 0 < noise.min() < noise.max() < 1
    for values in (noise.ravel(), noise[7], noise[:, 7]):
        ranks = np.arange(1, values.size + 1) / values.size
        distance = np.abs(np.sort(values) - ranks).max()
        assert distance < 2.2 / math.sqrt(values.size)  # exceeded once in 8,000 times by chance
    for one, other in ((noise[:-1], noise[1:]), (noise[:, :-1], noise[:, 1:])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4 / 300


def test_known_values_of_the_noise() -> None:
    """Philox4x64-10, its 128-bit key the first half of a SHA-256, its counter (0, y, 0, 0)."""
    key = np.frombuffer(hashlib.sha256(b"5/a/b").digest()[:16], np.uint64)
    raw = np.random.Generator(np.random.Philox(key=key, counter=[0, 2, 0, 0])).random(4)  # numpy's own 53 bits
    np.testing.assert_allclose(uniform_noise((3, 4), 5, "a/b")[2].numpy(), raw + 2.0**-54, rtol=0, atol=1e-16)


def test_scores_below_zero_are_refused_by_image() -> None:
    with pytest.raises(InputError, match=r"acquisition.beta 1 .* image a has the score -0.5"):
        keys(torch.tensor([[0.2, -0.5]]))
    assert keys(torch.tensor([[float("nan"), 0.5]])).isfinite().tolist() == [[False, True]]


def test_pixels_without_score_are_never_picked() -> None:
    assert torch.isneginf(keys(torch.zeros(2, 2))).all()
