"""The losses against torch's own cross-entropy of upsampled logits, on one worker and over two."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.nn import functional as F

from halo_ray.data.classes import IGNORE
from halo_ray.losses import dense_cross_entropy, mean_over_workers, point_cross_entropy

SIZES = [((3, 5), (12, 19)), ((4, 4), (4, 4)), ((1, 6), (1, 20)), ((6, 7), (3, 2))]
"""Of the logits and of the labels."""


def batch(seed: int, small: tuple[int, int] = (3, 5), full: tuple[int, int] = (12, 19), void: float = 0.3) -> tuple:
    """Logits (3, 4, h, w) and labels (3, H, W), of which the share ``void`` is IGNORE."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, 4, *small, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (3, *full), generator=generator, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < void] = IGNORE
    return logits.requires_grad_(), labels


def expected(logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
    full = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=True)
    return F.cross_entropy(full, labels.long(), ignore_index=IGNORE, reduction=reduction)


def at_every_pixel(labels: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The arguments of point_cross_entropy that stand for all pixels of the labels, in the given order."""
    image, y, x = torch.unravel_index(order, labels.shape)
    height, width = labels.shape[1:]
    return image, y.double() / max(height - 1, 1), x.double() / max(width - 1, 1), labels.flatten()[order]


@pytest.mark.parametrize("void", [0, 0.3, 0.99])
@pytest.mark.parametrize(("small", "full"), SIZES)
@pytest.mark.parametrize("dense", [True, False])
def test_sum_count_and_gradient_are_those_of_upsampled_logits(
    small: tuple[int, int], full: tuple[int, int], void: float, dense: bool
) -> None:
    logits, labels = batch(1, small, full, void)
    if dense:
        total, count = dense_cross_entropy(logits, labels)
    else:
        total, count = point_cross_entropy(logits, *at_every_pixel(labels, torch.randperm(labels.numel())))
    reference = expected(logits, labels, "sum")
    assert count.item() == int((labels < 4).sum())
    torch.testing.assert_close(total, reference)
    torch.testing.assert_close(torch.autograd.grad(total, logits), torch.autograd.grad(reference, logits))


@pytest.mark.parametrize("places", [1, 7, 100])
def test_points_count_only_where_they_lie(places: int) -> None:
    logits, labels = batch(2, void=0)
    chosen = torch.randperm(labels.numel())[:places]
    sparse = torch.full_like(labels, IGNORE).flatten()
    sparse[chosen] = labels.flatten()[chosen]
    total, count = point_cross_entropy(logits, *at_every_pixel(labels, chosen))
    assert count.item() == places
    torch.testing.assert_close(total, expected(logits, sparse.view_as(labels), "sum"))


def test_on_one_worker_the_mean_is_that_of_the_labelled_pixels() -> None:
    logits, labels = batch(3)
    loss = mean_over_workers(*dense_cross_entropy(logits, labels))
    reference = expected(logits, labels, "mean")
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(torch.autograd.grad(loss, logits), torch.autograd.grad(reference, logits))


@pytest.mark.parametrize("kind", ["dense", "points", "no points"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_of_nothing_but_void_gives_zero_loss_and_zero_gradient(kind: str, dtype: torch.dtype) -> None:
    weights, labels = batch(4, void=1.1)
    logits = weights.to(dtype)
    if kind == "dense":
        parts = dense_cross_entropy(logits, labels)
    else:
        some = torch.arange(9 if kind == "points" else 0)
        parts = point_cross_entropy(logits, *at_every_pixel(labels, some))
    loss = mean_over_workers(*parts)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(weights.grad, torch.zeros_like(weights))


VOIDS = {"unequal": (0.05, 0.9), "one without any": (0.4, 1.1), "none at all": (1.1, 1.1)}
"""Share of void pixels on each of two workers."""


def _network() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(4, 4, 1).double()


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {}
    for name, voids in VOIDS.items():
        network = _network()
        inputs, labels = batch(rank, void=voids[rank])
        logits = network(inputs.detach())
        points = at_every_pixel(labels, torch.arange(50))
        parts = {"dense": dense_cross_entropy(logits, labels), "points": point_cross_entropy(logits, *points)}
        loss = sum(mean_over_workers(*part) for part in parts.values())
        counts = {kind: count.item() for kind, (_, count) in parts.items()}
        gradient = torch.autograd.grad(loss, list(network.parameters()))
        for part in gradient:  # averaged over the workers, as DDP does
            dist.all_reduce(part.div_(2))
        results[name] = (loss.detach(), gradient, counts)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_over_two_workers_the_averaged_gradient_is_that_of_the_mean_over_all_pixels(tmp_path: Path) -> None:
    mp.spawn(_worker, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, voids in VOIDS.items():
        network, batches = _network(), [batch(rank, void=voids[rank]) for rank in range(2)]
        logits = network(torch.cat([inputs.detach() for inputs, _ in batches]))
        labels = torch.cat([labels for _, labels in batches])
        some = torch.full_like(labels, IGNORE).view(2, -1)
        some[:, :50] = labels.view(2, -1)[:, :50]
        losses = [expected(logits, kind, "mean") for kind in (labels, some.view_as(labels)) if (kind < 4).any()]
        reference = sum(losses, 0 * logits.sum())
        gradient = torch.autograd.grad(reference, list(network.parameters()))
        for rank in range(2):
            torch.testing.assert_close(found[rank][name][1], gradient)
            # all_reduce must not have changed the caller's count
            assert found[rank][name][2]["dense"] == int((batches[rank][1] < 4).sum())
        torch.testing.assert_close((found[0][name][0] + found[1][name][0]) / 2, reference.detach())
