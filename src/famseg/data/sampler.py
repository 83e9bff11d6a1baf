"""Samplers that know where a run stopped, and which part of an epoch belongs to which process."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, DistributedSampler

Key = tuple[int, int, int]  # (epoch, index, copy: 0, or more where an epoch shows a sample several times)

# Both samplers are DistributedSamplers because Lightning replaces every other sampler on several devices by its own.


class TrainSampler(DistributedSampler[Any]):
    """Shuffled, dealt to the processes, and resumed in the middle of an epoch where the run stopped.

    The order of an epoch follows from (seed, epoch) alone. Batch number k of an epoch holds the same samples, spread
    over more or fewer processes, whenever the total batch is the same.

    Yields keys (epoch, index, copy): a worker that gets one needs no state to draw the sample's augmentation.

    Args:
        indices: What is sampled.
        batch_size: Samples per batch and process; what is left over at the end of an epoch is dropped.
        seed: Of the order.
        weights: How often an epoch shows each sample: 2 twice, 0.5 every other epoch; None: once.
        trainer: Lightning's, whose progress says the epoch and how many batches of it are done; None: epoch from
            `set_epoch`, from its first batch.
    """

    def __init__(
        self,
        indices: Sequence[int],
        batch_size: int,
        seed: int,
        trainer: Any = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        world_size, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        super().__init__(indices, num_replicas=world_size, rank=rank, seed=seed)  # type: ignore[arg-type]
        self._indices = np.asarray(indices)
        self._weights = np.ones(len(indices)) if weights is None else np.asarray(weights, np.float64)
        self._shown = int(self._weights.sum() + 1e-6)  # a sum of decimals may fall short of its whole number
        self._batch_size = batch_size
        self._trainer = trainer

    def __len__(self) -> int:
        """Samples per epoch and process, also when a part of them is done already."""
        return self._shown // (self._batch_size * self.num_replicas) * self._batch_size

    def __iter__(self) -> Iterator[Key]:
        """Keys of what is left of the epoch."""
        epoch, batches_done = self._progress()
        mine = self._draw(epoch)[self.rank :: self.num_replicas][: len(self)]
        return iter(mine[batches_done * self._batch_size :])

    def _draw(self, epoch: int) -> list[Key]:
        """All keys of an epoch, shuffled."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self._indices))
        # Whole numbers passed by the running sum of the weights: each sample as often as its weight says, on average.
        passed = np.floor(np.cumsum(self._weights[order]) + 1e-6).astype(int)
        copies = np.diff(passed, prepend=0)
        keys = [(epoch, int(self._indices[i]), copy) for i, n in zip(order, copies, strict=True) for copy in range(n)]
        return keys if (copies == 1).all() else [keys[i] for i in rng.permutation(len(keys))]

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
