"""Samplers that know where a run stopped, and which part of an epoch belongs to which process."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, DistributedSampler

Key = tuple[int, int]  # (epoch, index)

# Both samplers are DistributedSamplers because Lightning replaces every other sampler on several devices by its own.


class TrainSampler(DistributedSampler[Any]):
    """Shuffled, dealt to the processes, and resumed in the middle of an epoch where the run stopped.

    The order of an epoch follows from (seed, epoch) alone. Batch number k of an epoch holds the same samples, spread
    over more or fewer processes, whenever the total batch is the same.

    Yields keys (epoch, index): a worker that gets one needs no state to draw the sample's augmentation.

    Args:
        indices: What is sampled.
        batch_size: Samples per batch and process; what is left over at the end of an epoch is dropped.
        seed: Of the order.
        trainer: Lightning's, whose progress says the epoch and how many batches of it are done; None: epoch from
            `set_epoch`, from its first batch.
    """

    def __init__(self, indices: Sequence[int], batch_size: int, seed: int, trainer: Any = None) -> None:
        world_size, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        super().__init__(indices, num_replicas=world_size, rank=rank, seed=seed)  # type: ignore[arg-type]
        self._indices = np.asarray(indices)
        self._batch_size = batch_size
        self._trainer = trainer

    def __len__(self) -> int:
        """Samples per epoch and process, also when a part of them is done already."""
        return len(self._indices) // (self._batch_size * self.num_replicas) * self._batch_size

    def __iter__(self) -> Iterator[Key]:
        """Keys of what is left of the epoch."""
        epoch, batches_done = self._progress()
        order = np.random.default_rng([self.seed, epoch]).permutation(self._indices)
        mine = order[self.rank :: self.num_replicas][: len(self)]
        return iter([(epoch, int(index)) for index in mine[batches_done * self._batch_size :]])

    def _progress(self) -> tuple[int, int]:
        if self._trainer is None:
            return self.epoch, 0
        loop = self._trainer.fit_loop
        return loop.epoch_progress.current.processed, loop.epoch_loop.batch_progress.current.completed


class EvaluationSampler(DistributedSampler[Any]):
    """In order, every sample exactly once over all processes: none is repeated to make them equal."""

    def __init__(self, indices: Sequence[int], trainer: Any = None) -> None:
        world_size, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        super().__init__(indices, num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self._mine = list(indices[rank::world_size])

    def __len__(self) -> int:
        """Samples of this process."""
        return len(self._mine)

    def __iter__(self) -> Iterator[int]:
        """Indices of this process."""
        return iter(self._mine)


class LateLoader(DataLoader[Any]):
    """A data loader that asks its sampler when the first batch is wanted, not when the iterator is made.

    Lightning makes the first iterator of a resumed run before it has settled epoch and batch; with workers, which
    fetch ahead at once, that epoch would follow another one's order.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches."""
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the sampler reads from the trainer. Lightning takes a loader with this method for resumable."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""
