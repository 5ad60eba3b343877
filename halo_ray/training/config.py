"""How the network is trained: what a user may set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from halo_ray.bounds import COUNT, Range, check_ranges
from halo_ray.data.sampling import SourceSampling
from halo_ray.data.transforms import AugmentationConfig
from halo_ray.errors import InputError
from halo_ray.training.losses import LossConfig

MOST_STEPS, MOST_IMAGES, MOST_THREADS = 10_000_000, 65_536, 1024

Steps = Annotated[int, Range(0, MOST_STEPS)]
Images = Annotated[int, Range(1, MOST_IMAGES)]
Rate = Annotated[float, Range(1e-12, 1e30)]


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained, before the first round and in each."""

    protocol: Literal["source_only", "source_target", "source_free", "fully_supervised"] = "source_target"
    """source_target: pool labels are bought and trained on beside the source (active domain adaptation); source_free:
    without the source after pretraining; source_only: pretraining alone; fully_supervised: source and all labels of the
    pool, for the steps of all rounds (upper bound)."""
    pretrain_steps: Steps = 250
    """Optimizer steps on the source before the first round; 0: none, for a network that is trained already."""
    round_steps: Annotated[int | tuple[int, ...], Range(1, MOST_STEPS)] = 80
    """Optimizer steps in each round, or a number for every round."""
    between_rounds: Literal["continue", "restart"] = "continue"
    """continue: weights, optimizer and one learning-rate schedule over all rounds (paper); restart: every round begins
    with the pretrained network and a schedule of its own."""
    source_batch: Images = 4
    """Source images in a step, over all workers; pretraining uses source_batch + target_batch."""
    target_batch: Images = 4
    """Pool images in a step, over all workers."""
    accumulation: Images = 1
    """Parts that a worker computes its share of a step in, one after another: less memory, the same gradient (negative
    learning is a mean over the pixels of a part then)."""
    losses: LossConfig = field(default_factory=LossConfig)
    """Parts of the training loss"""
    optimizer: Literal["adam", "sgd", "adamw"] = "adam"
    """adam and sgd (momentum 0.9) with L2 weight decay; adamw with decoupled decay, for transformers. Points on the
    ball are moved by geoopt's Riemannian Adam, or Riemannian SGD beside sgd."""
    learning_rate: Rate = 2e-3
    """Largest learning rate of the backbone in pretraining, whatever the number of workers."""
    round_learning_rate: Rate = 1e-3
    """Largest learning rate of the backbone in rounds."""
    head_factor: Annotated[float, Range(1e-6, 1e6)] = 1.0
    """The decoder, the feature reweighting and the classifier learn so many times as fast (official: 10)."""
    weight_decay: Annotated[float, Range(0, 1e6)] = 1e-4
    """Weight decay."""
    schedule: Literal["poly", "cosine"] = "poly"
    """Decay of the learning rate over pretraining, and again over the rounds."""
    warmup_steps: Steps = 20
    """Steps of linear rise of the learning rate at the beginning of a schedule."""
    poly_power: Annotated[float, Range(0, 1000)] = 0.9
    """Exponent of the polynomial decay."""
    clip_norm: Annotated[float | None, Range(1e-12, 1e30)] = None
    """Longer gradients are scaled to this L2 norm; null: never."""
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """bfloat16: autocast, with the hyperbolic head in float32; auto: that on GPUs, float32 on CPUs."""
    sync_batch_norm: bool = True
    """Live batch norms see the batch of all workers (GPUs only)."""
    deterministic: bool = True
    """Use deterministic algorithms where there are any: repeated runs give the same weights; slower on GPUs."""
    stop_after_bad_steps: Annotated[int, Range(1, COUNT)] = 10
    """A step whose gradient is NaN or infinite is left out; after so many in a row training ends."""
    cache_features: bool = False
    """Compute the features of a frozen backbone once, for every image and its mirror image, and train on those."""
    augment: AugmentationConfig = field(default_factory=AugmentationConfig)
    """How much training images are changed at random"""
    source_sampling: SourceSampling = field(default_factory=SourceSampling)
    """How source images are drawn"""
    control: bool = True
    """Under source_target, also train a twin on the same source images and steps without any bought label, to show what
    the labels gave."""
    threads: Annotated[int, Range(1, MOST_THREADS)] = 2
    """Torch threads of a training process; another number changes the last bits of the weights."""

    def __post_init__(self) -> None:
        check_ranges(self, "training.")
        if self.round_steps == ():
            raise InputError("training.round_steps is []: give a number for every round")
        changed = (self.augment.color_jitter, self.augment.saturation_jitter, self.augment.hue_jitter) != (0, 0, 0)
        if self.cache_features and (changed or self.augment.random_scale != (1, 1)):
            raise InputError(
                "training.cache_features keeps the features of whole images as they are: set color_jitter, "
                "saturation_jitter and hue_jitter of training.augment to 0 and random_scale to [1, 1]"
            )

    def steps_of_rounds(self, rounds: int) -> list[int]:
        """Optimizer steps of each of ``rounds`` rounds.

        Raises:
            InputError: round_steps has another number of them.
        """
        if isinstance(self.round_steps, int):
            return [self.round_steps] * rounds
        if len(self.round_steps) != rounds:
            raise InputError(
                f"training.round_steps has {len(self.round_steps)} numbers for {rounds} rounds: give one for each"
            )
        return list(self.round_steps)

    @property
    def uses_source(self) -> bool:
        """Whether rounds train on the source."""
        return self.protocol != "source_free"

    @property
    def buys(self) -> bool:
        """Whether there are rounds that buy labels."""
        return self.protocol in ("source_target", "source_free")

    @property
    def trains_twin(self) -> bool:
        """Whether a twin is trained without labels."""
        return self.control and self.protocol == "source_target"

    @property
    def batches(self) -> tuple[int, int]:
        """Source and pool images of a step."""
        return self.source_batch, self.target_batch

    def smallest_step(self, *, has_source: bool) -> int:
        """The fewest images that a step has; a twin has no pool images."""
        if not (has_source and self.uses_source):
            return self.target_batch
        return self.source_batch if self.trains_twin else sum(self.batches)


def check_workers(
    config: TrainingConfig, workers: int | Sequence[int], *, has_source: bool = True, two_sizes: bool = False
) -> None:
    """Raises InputError where so many training processes, or any number in that range, cannot share a step.

    The smallest step of ``config`` must give each of them at least one image for each part that it computes.

    Args:
        has_source: there is one.
        two_sizes: workers share live batch norms, and source and pool images go through them one after the other.
    """
    most = workers if isinstance(workers, int) else max(workers)
    fewest = config.smallest_step(has_source=has_source)
    if max(most, 1) * config.accumulation > fewest:
        parts = f" times training.accumulation {config.accumulation}" if config.accumulation > 1 else ""
        raise InputError(
            f"{most} training workers{parts} are more than the {fewest} images of a step: lower "
            "execution.num_workers or raise training.source_batch and target_batch"
        )
    shares = max(most, 1) * config.accumulation
    if most > 1 and config.sync_batch_norm and two_sizes and min(config.batches) < shares:
        raise InputError(
            f"training.sync_batch_norm needs a source and a pool image in each of {shares} parts of a step where their "
            "sizes differ: raise training.source_batch and target_batch, or set it to false"
        )
