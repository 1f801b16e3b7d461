"""Training by epochs that can be taken up again at any iteration."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from mmengine.registry import DATA_SAMPLERS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import BatchSampler, DataLoader, Sampler

from mmdet_mobileformer.engine.resuming.random_state import set_random_state


@DATA_SAMPLERS.register_module()
class ResumableBatchSampler(BatchSampler):
    """A batch sampler that can begin in the middle of an epoch, without loading what is passed.

    Args:
        sampler: Gives indices of images.
        batch_size: Images a batch.
        batch_sampler: Config of the batch sampler that makes the batches.
    """

    _num_skipped = 0
    _random_state: dict[str, Any] | None = None

    def __init__(self, sampler: Sampler, batch_size: int, batch_sampler: dict) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self.batch_sampler = DATA_SAMPLERS.build(
            batch_sampler, default_args=dict(sampler=sampler, batch_size=batch_size)
        )

    def resume(self, num_skipped: int, random_state: dict[str, Any]) -> None:
        """Let the next epoch leave batches out, and begin with this state of random numbers."""
        self._num_skipped, self._random_state = num_skipped, random_state

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of each batch."""
        batches = islice(self.batch_sampler, self._num_skipped, None)
        if self._random_state is not None:  # the loader's iterator has drawn a number before
            set_random_state(self._random_state)
        self._num_skipped, self._random_state = 0, None
        yield from batches

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.batch_sampler)


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """mmengine's EpochBasedTrainLoop, which can resume within an epoch and before a validation.

    mmengine begins the interrupted epoch anew, and never does a validation that was interrupted.
    Here the batches that are done are passed over without loading them, and a validation that was
    due is done.

    Args:
        runner: As in mmengine.
        dataloader: As in mmengine; a config gets a :class:`ResumableBatchSampler` around its own
            batch sampler.
        **kwargs: As in mmengine.
    """

    _first_iter = 0
    _validation_alone = False

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        **kwargs: Any,  # noqa: ANN401 (mmengine's own)
    ) -> None:
        super().__init__(runner, _resumable(dataloader), **kwargs)

    def resume(self, inner_iter: int, validated: bool, random_state: dict[str, Any]) -> None:
        """Set where to go on; called before :meth:`run` begins with its work.

        Args:
            inner_iter: Iterations of the present epoch that are done, 0 between epochs.
            validated: Whether the validation of the last epoch is done.
            random_state: State of the random number generators at that moment.
        """
        if inner_iter:
            self._first_iter = inner_iter
            self.dataloader.batch_sampler.resume(inner_iter, random_state)
        elif self._epoch > 0 and not validated:
            # mmengine validates behind an epoch: the last one is run again, without its training.
            self._validation_alone = True
            self._epoch -= 1

    def run_epoch(self) -> None:
        """Train one epoch, the rest of one, or nothing of it where only its validation is due."""
        if self._validation_alone:
            self._validation_alone = False
            self._epoch += 1
            return
        super().run_epoch()
        self._first_iter = 0

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Train one iteration, counted from the beginning of the epoch."""
        super().run_iter(self._first_iter + idx, data_batch)


def _resumable(loader: DataLoader | dict) -> DataLoader | dict:
    """A loader's config with a :class:`ResumableBatchSampler`; a built one stays as it is."""
    if not isinstance(loader, dict):
        return loader
    loader = dict(loader)
    inner = loader.get('batch_sampler') or dict(
        type=BatchSampler, drop_last=loader.pop('drop_last', False)
    )
    return dict(loader, batch_sampler=dict(type='ResumableBatchSampler', batch_sampler=inner))
