"""Stochastic batch acquisition (Kirsch et al. 2023): sample a batch by its scores instead of taking the best.

The best of a pool are often alike; keys log A + Gumbel/β make the k largest keys a sample without replacement with
probabilities in proportion to A^β, and leave all that follows (greedy picks, the global cut) exact and order-free.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor


def image_generator(seed: int, image_id: str) -> torch.Generator:
    """Random numbers that depend on the seed and the image alone, whenever and wherever it is scored."""
    digest = hashlib.sha256(f"{seed}/{image_id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def stochastic_keys(score: Tensor, *, beta: float, seed: int, image_id: str) -> Tensor:
    """Keys log A + G/β of one image's acquisition map A >= 0 (H, W), G standard Gumbel noise; A itself for β = ∞.

    Pixels with A = 0 get −∞ and are never picked.
    """
    if math.isinf(beta):
        return score
    uniform = torch.rand(score.shape, generator=image_generator(seed, image_id), dtype=torch.float64)
    gumbel = -torch.log(-torch.log(uniform.clamp_min(torch.finfo(torch.float64).tiny)))
    return (score.double().log() + gumbel / beta).float()
