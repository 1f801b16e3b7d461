"""Training by epochs that can be taken up again at any iteration."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from mmengine.registry import DATA_SAMPLERS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Sampler

from mmdet_mobileformer.engine.finite import NonFiniteError
from mmdet_mobileformer.engine.resuming.random_state import set_random_state
from mmdet_mobileformer.errors import LocalError


@DATA_SAMPLERS.register_module()
class ResumableBatchSampler(BatchSampler):
    """A batch sampler that can begin in the middle of an epoch, without loading what is passed.

    Args:
        sampler: Gives indices of images.
        batch_size: Images a batch.
        drop_last: Whether to drop an incomplete last batch.
        batch_sampler: Config of the batch sampler that makes the batches; None for mmengine's
            usual ones.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch_size: int,
        drop_last: bool = False,
        batch_sampler: dict | None = None,
    ) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.batch_sampler = DATA_SAMPLERS.build(
            batch_sampler or dict(type=BatchSampler),
            default_args=dict(sampler=sampler, batch_size=batch_size, drop_last=drop_last),
        )
        self.num_skipped = 0  # batches of the next epoch to leave out

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the indices of each batch."""
        num_skipped, self.num_skipped = self.num_skipped, 0
        yield from islice(self.batch_sampler, num_skipped, None)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.batch_sampler)


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """mmengine's EpochBasedTrainLoop, which can resume within an epoch and before a validation.

    mmengine begins the interrupted epoch anew, and never does a validation that was interrupted.
    Here the batches that are done are passed over without loading them, and a validation that was
    due is done. An error from :mod:`mmdet_mobileformer.engine.finite` stops with the iteration and
    the names of its images.

    Args:
        runner: As in mmengine.
        dataloader: As in mmengine; a config gets a :class:`ResumableBatchSampler` around its own
            batch sampler.
        **kwargs: As in mmengine.
    """

    _first_iter = 0
    _validation_due = False
    _random_state: dict[str, Any] | None = None

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
        self._first_iter = self.dataloader.batch_sampler.num_skipped = inner_iter
        self._validation_due = not inner_iter and not validated and self._epoch > 0
        self._random_state = random_state if inner_iter else None

    def run(self) -> nn.Module:
        """Train all epochs that are left, with a validation where one is due."""
        self.runner.call_hook('before_train')
        if self._validation_due:
            self._validate_if_due()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train one epoch, or the rest of one."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        first_iter, self._first_iter = self._first_iter, 0
        batches = iter(self.dataloader)  # which draws a random number
        if self._random_state is not None:
            set_random_state(self._random_state)
            self._random_state = None
        for index, data_batch in enumerate(batches, first_iter):
            self.run_iter(index, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Train one iteration.

        Raises:
            LocalError: If a loss, a cost or a gradient is not finite, or an image too small.
        """
        with _naming(f'iteration {self._iter + 1} (epoch {self._epoch + 1})', data_batch):
            super().run_iter(idx, data_batch)

    def _validate_if_due(self) -> None:
        """The part of mmengine's ``run`` that follows an epoch."""
        self._decide_current_val_interval()
        interval_over = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        if self.runner.val_loop is not None and self._epoch >= self.val_begin and interval_over:
            self.runner.val_loop.run()


def _resumable(loader: DataLoader | dict) -> DataLoader | dict:
    """A loader's config with a :class:`ResumableBatchSampler`; a built one stays as it is."""
    if not isinstance(loader, dict):
        return loader
    batch_sampler = loader.get('batch_sampler')
    if (batch_sampler or {}).get('type') == 'ResumableBatchSampler':
        return loader  # saved by an earlier version
    drop_last = loader.get('drop_last', False)
    ours = dict(type='ResumableBatchSampler', batch_sampler=batch_sampler, drop_last=drop_last)
    others = {key: value for key, value in loader.items() if key != 'drop_last'}
    return {**others, 'batch_sampler': ours}


@LOOPS.register_module()
class NamingIterBasedTrainLoop(IterBasedTrainLoop):
    """mmengine's IterBasedTrainLoop, whose errors name the iteration and the images.

    It resumes as mmengine's does. Arguments are mmengine's.
    """

    def run_iter(self, data_batch: Sequence[dict]) -> None:
        """Train one iteration.

        Raises:
            LocalError: If a loss, a cost or a gradient is not finite, or an image too small.
        """
        with _naming(f'iteration {self._iter + 1}', data_batch):
            super().run_iter(data_batch)


@contextmanager
def _naming(iteration: str, data_batch: object) -> Iterator[None]:
    """Add iteration and images to errors of a training step.

    Raises:
        LocalError: In the place of the error.
    """
    try:
        yield
    except NonFiniteError as error:
        raise LocalError(
            f'{error} at {iteration}, images {_images(data_batch)}; training stopped before this '
            'step changed the weights, and the checkpoints are those of before: look at these '
            'images and boxes, or lower the learning rate, and go on by --resume.'
        ) from error
    except ValueError as error:
        if 'more than 1 value per channel' not in str(error):  # PyTorch's batch normalisation
            raise
        raise LocalError(
            f'images {_images(data_batch)} are too small to normalise over at {iteration} (one '
            'pixel of a feature map is left of them); resize them, use larger batches, or fix the '
            'statistics by model.backbone.norm_eval=True.'
        ) from error


def _images(data_batch: object) -> str:
    """File names of a batch's images."""
    samples = data_batch.get('data_samples', []) if isinstance(data_batch, dict) else []
    names = [getattr(sample, 'img_path', 'of unknown name') for sample in samples]
    return ', '.join(map(repr, names)) or 'of unknown names'
