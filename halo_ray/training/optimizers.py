"""Optimizers of a network some of whose weights are points on the Poincaré ball."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from halo_ray.models.segmenter import Segmenter
from halo_ray.training.config import TrainingConfig

MOMENTUM = 0.9


class Optimizers:
    """Torch's optimizer for all weights but those on the ball, which geoopt's moves along geodesics.

    On flat weights the two are the same update, but that geoopt's SGD begins with a whole gradient as its momentum;
    torch's takes many weights at once.

    Args:
        learning_rate: of the backbone at a schedule's factor of 1.
    """

    def __init__(self, model: Segmenter, config: TrainingConfig, learning_rate: float) -> None:
        self._model = model
        flat: list[dict[str, Any]] = []
        curved: list[dict[str, Any]] = []
        for name, part in model.named_children():
            rate = learning_rate * (1 if name == "backbone" else config.head_factor)
            for groups, on_ball in ((flat, False), (curved, True)):
                own = [p for p in part.parameters() if p.requires_grad and _on_ball(p) == on_ball]
                groups += [{"params": own, "lr": rate, "base_lr": rate}] if own else []
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        decay = config.weight_decay
        if config.optimizer == "sgd":
            if flat:
                self._optimizers["flat"] = torch.optim.SGD(flat, momentum=MOMENTUM, weight_decay=decay)
            if curved:
                # geoopt wants a rate even where every group has its own.
                self._optimizers["curved"] = geoopt.optim.RiemannianSGD(
                    curved, lr=learning_rate, momentum=MOMENTUM, weight_decay=decay
                )
        else:
            kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
            if flat:
                self._optimizers["flat"] = kind(flat, weight_decay=decay)
            if curved:
                # Decay towards the origin of points is part of the gradient even for adamw: geoopt has no other.
                self._optimizers["curved"] = geoopt.optim.RiemannianAdam(curved, weight_decay=decay)

    def set_factor(self, factor: float) -> float:
        """Sets every learning rate to ``factor`` times its base; returns the largest."""
        groups = [group for optimizer in self._optimizers.values() for group in optimizer.param_groups]
        for group in groups:
            group["lr"] = group["base_lr"] * factor
        return max((float(group["lr"]) for group in groups), default=0.0)

    def clip(self, most: float | None) -> Tensor:
        """The L2 norm of the gradient, which is scaled down to ``most`` where it is longer."""
        trained = list(self._trained())
        norm = torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if most is not None:
            torch.nn.utils.clip_grads_with_norm_(trained, most, norm)
        return norm

    def step(self) -> None:
        for optimizer in self._optimizers.values():
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        return {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state of the same network; base rates stay as they are here."""
        for name, optimizer in self._optimizers.items():
            base = [group["base_lr"] for group in optimizer.param_groups]
            optimizer.load_state_dict(state[name])
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["base_lr"] = rate
            if name == "curved":  # torch makes the number of steps a float32 tensor, geoopt counts in whole numbers
                for values in optimizer.state.values():
                    values.update({"step": int(values["step"])} if "step" in values else {})

    def _trained(self) -> Iterator[nn.Parameter]:
        return (p for p in self._model.parameters() if p.requires_grad)


def _on_ball(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, geoopt.ManifoldParameter)
