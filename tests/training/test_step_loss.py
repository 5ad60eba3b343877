"""The loss of a training step: its formulas, its parts, and what several workers make of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from loss_twin import borders_by_loop, upsampled
from torch import Tensor, nn
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from halo_ray.data.classes import IGNORE
from halo_ray.data.samples import PointTensors, Samples
from halo_ray.training.losses import (
    LossConfig,
    Losses,
    summed,
)
from halo_ray.training.worker import Worker

CLASSES = 4


class Case(NamedTuple):
    """Samples of one size, with the bought pixels as a label map as well."""

    logits: Tensor
    samples: Samples
    bought: Tensor
    """(pool images, H', W') at the label files' size."""


def case(
    seed: int,
    sources: int,
    targets: int,
    size: tuple[int, int] = (12, 19),
    *,
    void: float = 0.3,
    bought: int = 9,
    dense: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Case:
    """Blocky labels, of which the share ``void`` is IGNORE, and logits at about a third of the size.

    Args:
        bought: pixels of each pool image, one of them undecided.
        dense: pool images have labels of all pixels, and none bought.
    """
    generator = torch.Generator().manual_seed(seed)
    small, file = (max(size[0] // 3, 1), max(size[1] // 3, 1)), (size[0] + 5, size[1] * 2)
    logits = 2 * torch.randn(sources + targets, CLASSES, *small, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (sources + (targets if dense else 0), *size), generator=generator)
    labels = labels[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2)[:, : size[0], : size[1]].byte()
    labels[torch.rand(labels.shape, generator=generator) < void] = IGNORE
    sparse = torch.full((targets, *file), IGNORE, dtype=torch.uint8)
    points = [[], [], [], []]
    for image in range(0 if dense else targets):
        place = torch.randperm(file[0] * file[1], generator=generator)[:bought]
        said = torch.randint(0, CLASSES, (bought,), generator=generator, dtype=torch.uint8)
        said[1:2] = IGNORE
        sparse[image].view(-1)[place] = said
        y, x = (place // file[1]).double() / (file[0] - 1), (place % file[1]).double() / (file[1] - 1)
        for values, more in zip(points, (torch.full((bought,), sources + image), y, x, said), strict=True):
            values.append(more)
    kinds = (torch.int64, torch.float64, torch.float64, torch.uint8)
    joined = PointTensors(*(torch.cat([*v, torch.empty(0)]).to(kind) for v, kind in zip(points, kinds, strict=True)))
    images = torch.zeros(sources + targets, *size, 3, dtype=torch.uint8)
    return Case(logits.to(dtype).requires_grad_(), Samples(images, labels, joined, sources, size), sparse)


def pixels_of(maps: Tensor) -> Tensor:
    """(P, C) of (N, C, H, W)."""
    return maps.movedim(1, -1).flatten(0, 2)


def by_formula(said: list[Tensor], cases: list[Case], config: LossConfig) -> dict[str, Tensor]:
    """The terms, with every map upsampled, all pixels in one list and plain means; 0 where there are none."""
    source, target, unlikely, apart = ([], []), ([], []), [], []
    for logits, (_, samples, bought) in zip(said, cases, strict=True):
        first, size = samples.sources, samples.size
        full = upsampled(logits, size)
        source[0].append(pixels_of(full[:first]))
        source[1].append(samples.labels[:first].flatten())
        target[0].append(pixels_of(upsampled(logits[first:], bought.shape[1:])))
        target[1].append(bought.flatten())
        if len(samples.labels) > first:
            target[0].append(pixels_of(full[first:]))
            target[1].append(samples.labels[first:].flatten())
        p = full.softmax(1)
        unlikely.append(p[first:][p[first:] < config.negative_threshold])
        for n, y, x in np.argwhere(borders_by_loop(samples.labels[:first].numpy())):
            rows, cols = (
                [min(max(i + d, 0), side - 1) for d in (-1, 0, 1)] for i, side in zip((y, x), size, strict=True)
            )
            own, mean = p[n, :, y, x], p[n][:, rows][:, :, cols].mean((1, 2))
            if config.consistency_distance == "l1":
                apart.append((own - mean).abs().sum())
            else:
                apart.append((own * (own / (mean + 1e-6) + 1e-6).log()).sum())
    nothing = said[0].sum() * 0
    unlikely = torch.cat(unlikely)
    entropy = {
        name: F.cross_entropy(torch.cat(logits), torch.cat(labels).long(), ignore_index=IGNORE)
        if (torch.cat(labels) != IGNORE).any()
        else nothing
        for name, (logits, labels) in {"source": source, "target": target}.items()
    }
    return {
        **entropy,
        "negative": -(1 - unlikely + 1e-6).log().mean() if len(unlikely) else nothing,
        "consistency": torch.stack(apart).mean() if apart else nothing,
    }


def weighted(terms: dict[str, Tensor], config: LossConfig) -> Tensor:
    return sum(getattr(config, name) * term for name, term in terms.items())


FULL = LossConfig(source=1.5, target=0.7, negative=0.8, negative_threshold=0.1, consistency=0.3)
STEPS: dict[str, Callable[[], list[Case]]] = {
    "one size": lambda: [case(1, 2, 3)],
    "two sizes": lambda: [case(2, 2, 0), case(3, 0, 3, (9, 7))],
    "source alone": lambda: [case(4, 3, 0)],
    "pool alone": lambda: [case(5, 0, 3)],
    "full supervision": lambda: [case(6, 2, 2, dense=True)],
    "full supervision of two sizes": lambda: [case(7, 2, 0, dense=True), case(8, 0, 3, (8, 10), dense=True)],
    "nothing bought": lambda: [case(9, 2, 2, bought=0)],
    "nothing decided": lambda: [case(10, 1, 1, bought=0), case(11, 0, 2, (6, 6), bought=0, dense=True, void=1.1)],
    "all void": lambda: [case(12, 2, 2, void=1.1)],
    "all void and nothing bought": lambda: [case(13, 2, 2, void=1.1, bought=0)],
}


@pytest.mark.parametrize("distance", ["l1", "kl"])
@pytest.mark.parametrize("step", STEPS)
def test_a_step_s_loss_terms_and_gradient_are_those_of_the_formulas(step: str, distance: str) -> None:
    cases, config = STEPS[step](), LossConfig(**{**vars(FULL), "consistency_distance": distance})
    said, parts = [each.logits for each in cases], [each.samples for each in cases]
    losses = Losses(config)
    loss, means = losses(said, parts, losses.counts(parts))
    terms = by_formula(said, cases, config)
    expected = weighted(terms, config)
    for name, value in means.items():
        torch.testing.assert_close(
            value, terms[name].detach(), rtol=1e-12, atol=1e-13, msg=lambda m, n=name: f"{n}: {m}"
        )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-13)
    found = torch.autograd.grad(loss, said)
    for one, other in zip(found, torch.autograd.grad(expected, said), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)
    assert losses.weighted({name: float(mean) for name, mean in means.items()}) == pytest.approx(expected.item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("config", [LossConfig(), LossConfig(consistency=1.0, target=0.5)])
def test_nothing_but_void_and_no_bought_pixel_give_zero_loss_and_zero_gradient(
    config: LossConfig, dtype: torch.dtype
) -> None:
    one, losses = case(13, 2, 2, void=1.1, bought=0, dtype=dtype), Losses(config)
    loss, means = losses([one.logits], [one.samples], losses.counts([one.samples]))
    loss.backward()
    assert loss.item() == 0
    assert [mean.item() for mean in means.values()] == [0] * len(means)
    assert torch.equal(one.logits.grad, torch.zeros_like(one.logits))


def test_a_term_without_pixels_adds_no_gradient_to_the_others() -> None:
    one = case(14, 2, 2, bought=0)
    gradients = []
    for config in (LossConfig(), LossConfig(target=0.0)):
        losses = Losses(config)
        loss, _ = losses([one.logits], [one.samples], losses.counts([one.samples]))
        gradients.append(torch.autograd.grad(loss, one.logits)[0])
    assert torch.equal(*gradients)
    assert not gradients[0][2:].any()
    assert gradients[0][:2].any()


@pytest.mark.parametrize("left_out", ["source", "target", "negative", "consistency"])
def test_a_term_of_weight_0_is_left_out(left_out: str) -> None:
    one, config = case(15, 2, 2), LossConfig(**{**vars(FULL), left_out: 0.0})
    losses = Losses(config)
    loss, means = losses([one.logits], [one.samples], losses.counts([one.samples]))
    assert set(means) == {"source", "target", "negative", "consistency"} - {left_out}
    terms = by_formula([one.logits], [one], config)
    expected = sum(getattr(FULL, name) * terms[name] for name in means)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    found, reference = (torch.autograd.grad(value, one.logits)[0] for value in (loss, expected))
    torch.testing.assert_close(found, reference, rtol=1e-10, atol=1e-14)


def test_half_precision_logits_are_computed_in_float32() -> None:
    losses = Losses(FULL)
    one = case(16, 2, 2, dtype=torch.bfloat16)
    wide = one.logits.detach().float()
    found, expected = (losses([said], [one.samples], losses.counts([one.samples]))[0] for said in (one.logits, wide))
    assert found.dtype == torch.float32
    assert found.item() == expected.item()


def test_the_parts_of_a_step_sum_to_the_whole() -> None:
    """Parts with unequal numbers of pixels; negative learning is the average of the parts' own means."""
    cases = [case(20, 1, 2), case(21, 2, 1, void=0.8, bought=40), case(22, 0, 1, (9, 7), bought=2)]
    in_parts = [cases[:1], cases[1:]]
    losses = Losses(FULL)
    counts = losses.counts(each.samples for part in in_parts for each in part)
    whole = by_formula([each.logits for each in cases], cases, FULL)
    alone = [by_formula([each.logits for each in part], part, FULL)["negative"] for part in in_parts]
    whole["negative"] = sum(alone) / 2
    expected = torch.autograd.grad(weighted(whole, FULL), [each.logits for each in cases])
    sums = dict.fromkeys(whole, 0.0)
    for part in in_parts:
        loss, means = losses([each.logits for each in part], [each.samples for each in part], counts, len(in_parts))
        loss.backward()
        sums = {name: sums[name] + means[name].item() for name in sums}
    assert sums == pytest.approx({name: term.item() for name, term in whole.items()}, rel=1e-12)
    for each, gradient in zip(cases, expected, strict=True):
        torch.testing.assert_close(each.logits.grad, gradient, rtol=1e-10, atol=1e-14)


def test_sums_and_counts_add_up() -> None:
    parts = [(torch.tensor(1.5), torch.tensor(2)), (torch.tensor(0.25), torch.tensor(0))]
    assert [value.item() for value in summed(parts)] == [1.75, 2]


TERMS = {
    "source": LossConfig(target=0.0),
    "target": LossConfig(source=0.0),
    "negative": LossConfig(source=0.0, target=0.0, negative=1.0, negative_threshold=0.1),
    "consistency": LossConfig(source=0.0, target=0.0, consistency=1.0),
    "all": FULL,
}
WORKERS = {
    "unequal": lambda rank: [case(30 + rank, 1 + rank, 2 - rank, void=(0.05, 0.9)[rank], bought=(3, 50)[rank])],
    "one without any": lambda rank: [case(32 + rank, 1, 1, void=(0.4, 1.1)[rank], bought=(9, 0)[rank])],
    "none at all": lambda rank: [case(34 + rank, 1, 1, void=1.1, bought=0)],
    "unequal domains": lambda rank: [case(36 + rank, 2 - 2 * rank, 2 * rank)],
    "full supervision": lambda rank: [case(38 + rank, 1, 1, void=(0.1, 0.7)[rank], dense=True)],
    "in two parts": lambda rank: [case(40 + rank, 1, 1 + rank), case(42 + rank, 1 + rank, 1, void=0.7, bought=30)],
}
"""The parts of a step on each of two workers."""


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(CLASSES, CLASSES, 1).double()


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    worker = Worker(rank, 2, torch.device("cpu"), torch.float64, autocasts=False, sync_batch_norm=False, seed=0)
    results = {}
    for name, make in WORKERS.items():
        for term, config in TERMS.items():
            network, losses, parts = DistributedDataParallel(_network()), Losses(config, 2, worker.sum), make(rank)
            counts = losses.counts(part.samples for part in parts)
            before = {key: value.clone() for key, value in counts.items()}
            total = 0
            for part in parts:
                with worker.accumulating(network, last=part is parts[-1]):
                    loss, _ = losses([network(part.logits.detach())], [part.samples], counts, len(parts))
                    loss.backward()
                total = total + loss.detach()
            assert before == counts
            results[name, term] = (total, [p.grad for p in network.parameters()])
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_over_two_workers_the_averaged_gradient_is_that_of_one_with_everything(tmp_path: Path) -> None:
    mp.spawn(_worker, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, make in WORKERS.items():
        for term, config in TERMS.items():
            network, both = _network(), [make(rank) for rank in range(2)]
            # Negative learning is over the parts that the workers compute at the same time.
            each = [
                by_formula([network(c.logits.detach()) for c in part], list(part), config)
                for part in zip(*both, strict=True)
            ]
            everything = [c for parts in both for c in parts]
            terms = by_formula([network(c.logits.detach()) for c in everything], everything, config)
            terms["negative"] = sum(part["negative"] for part in each) / len(each)
            reference = weighted(terms, config)
            gradient = torch.autograd.grad(reference, list(network.parameters()))
            for rank in range(2):
                for one, other in zip(found[rank][name, term][1], gradient, strict=True):
                    torch.testing.assert_close(
                        one, other, rtol=1e-10, atol=1e-10, msg=lambda m, where=(name, term, rank): f"{where}: {m}"
                    )
            said = (found[0][name, term][0] + found[1][name, term][0]) / 2
            torch.testing.assert_close(said, reference.detach(), rtol=1e-10, atol=1e-10)
