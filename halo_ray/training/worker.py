"""A training process: its device, its numbers, and what it shares with the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from ray.train.torch import get_device, prepare_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from halo_ray.data.samples import LoadSamples
from halo_ray.errors import InputError
from halo_ray.models.segmenter import Segmenter
from halo_ray.training.config import TrainingConfig

OUT_OF_MEMORY = "out of memory", "alloc_failed", "can't allocate memory", "not enough memory"
"""What torch, CUDA, cuBLAS, cuDNN and the system say; not all as an error of its own kind."""


@dataclass(frozen=True)
class Worker:
    """One of the processes that train together."""

    rank: int
    world_size: int
    device: torch.device
    dtype: torch.dtype
    """Of the weights."""
    autocasts: bool
    """Whether the network runs in bfloat16."""
    sync_batch_norm: bool
    seed: int

    @classmethod
    def join(cls, config: TrainingConfig, device: str | None, seed: int) -> Worker:
        """This process, prepared: threads, random numbers, algorithms."""
        torch.manual_seed(seed)  # a network without weights starts alike everywhere
        torch.set_num_threads(config.threads)
        torch.use_deterministic_algorithms(config.deterministic, warn_only=True)
        where = torch.device(device or get_device())
        gpu = where.type == "cuda"
        if gpu:
            # Input sizes stay the same, so the fastest convolution is worth looking for, where any may be taken.
            torch.backends.cudnn.benchmark = not config.deterministic
        return cls(
            # Not Ray Train's context, which refuses to be asked in the process of a Ray Tune trial.
            rank=torch.distributed.get_rank() if torch.distributed.is_initialized() else 0,
            world_size=torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
            device=where,
            dtype=torch.float64 if config.precision == "float64" else torch.float32,
            autocasts=config.precision == "bfloat16" or (config.precision == "auto" and gpu and _has_bfloat16()),
            sync_batch_norm=config.sync_batch_norm and gpu,
            seed=seed,
        )

    def distribute(self, model: Segmenter) -> nn.Module:
        """The network to call: it averages gradients over the workers."""
        network: nn.Module = model.train()
        if self.world_size == 1:
            return network
        if self.sync_batch_norm:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        # Statistics that live batch norms gather are not sent around: those of rank 0 are the ones that are kept.
        wrapped: nn.Module = prepare_model(network, self.device, parallel_strategy_kwargs={"broadcast_buffers": False})
        return wrapped

    def seed_step(self, step: int) -> None:
        """Random numbers (dropout) depend on the step alone, so that they need no state in a checkpoint."""
        torch.manual_seed(((self.seed * 1_000_003 + step) * 4_099 + self.rank) % 2**63)

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocasts)

    def accumulating(self, network: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Gradients are exchanged after the last part of a step only."""
        if last or not isinstance(network, DistributedDataParallel):
            return nullcontext()
        held: AbstractContextManager[None] = network.no_sync()
        return held

    def sum(self, own: Tensor) -> Tensor:
        """The sum of a tensor over all workers."""
        if self.world_size > 1:
            own = own.clone()
            torch.distributed.all_reduce(own)
        return own


def _has_bfloat16() -> bool:
    """Whether the GPU computes in bfloat16 by itself."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


@contextmanager
def explained(config: TrainingConfig, load: LoadSamples) -> Iterator[None]:
    """Turns a lack of memory into one sentence that names the settings which reduce it.

    Raises:
        InputError: so.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _too_large(config, load) from error
    except RuntimeError as error:
        if any(said in str(error).lower() for said in OUT_OF_MEMORY):
            raise _too_large(config, load) from error
        raise


def _too_large(config: TrainingConfig, load: LoadSamples) -> InputError:
    sizes = " and ".join(sorted({f"{width}x{height}" for height, width in load.sizes.values()}))
    return InputError(
        f"the device's memory is too small for a training step of {config.source_batch} source and "
        f"{config.target_batch} pool images of {sizes} pixels: raise training.accumulation or execution.num_workers, "
        "or, in another output_dir, lower training.source_batch and target_batch or data.height and data.width, or set "
        "training.precision to bfloat16"
    )
