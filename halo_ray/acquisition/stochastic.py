"""Stochastic batch acquisition (Kirsch et al. 2023): sample a batch by its scores instead of taking the best.

The best of a pool are often alike; keys log A + Gumbel/β make the k largest keys a sample without replacement with
probabilities in proportion to A^β, and leave all that follows (greedy picks, the global cut) exact and order-free.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from halo_ray.errors import InputError


def uniform_noise(size: tuple[int, int], *key: object) -> Tensor:
    """Uniform random numbers in (0, 1), float64 (H, W): a function of ``key``, y and x alone.

    Neither the size of the map nor what else is drawn changes the number of a pixel: every row is a stream of its own
    of the counter-based generator Philox, numbered by y.
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    seed = np.frombuffer(digest[:16], np.uint64)
    rows = [np.random.Philox(key=seed, counter=[0, y, 0, 0]).random_raw(size[1]) for y in range(size[0])]
    bits = np.stack(rows) >> np.uint64(11)  # 53 bits, as many as a float64 holds
    return torch.from_numpy((bits + 0.5) * 2.0**-53).clamp_(max=1 - 2.0**-53)


def stochastic_keys(score: Tensor, *, beta: float, seed: int, image_id: str) -> Tensor:
    """Keys log A + G/β of one image's acquisition map A >= 0 (H, W), G standard Gumbel noise; A itself for β = ∞.

    Pixels with A = 0 get −∞ and are never picked.

    Args:
        seed: of the experiment and the round.

    Raises:
        InputError: a score is below 0, where no logarithm is.
    """
    if math.isinf(beta):
        return score
    least = float(score.nan_to_num(nan=0.0).min())
    if least < 0:
        raise InputError(
            f"acquisition.beta {beta:g} samples by the logarithm of scores, but image {image_id} has the score "
            f"{least:g}: set beta to .inf or use a function whose scores are not below 0"
        )
    gumbel = uniform_noise((score.shape[0], score.shape[1]), seed, image_id).log_().neg_().log_().neg_()
    return gumbel.div_(beta).add_(score.double().log()).float()
