"""``--epochs``: the whole schedule of a config, scaled to another number of epochs."""

from mmengine.config import Config

from mmdet_mobileformer.config_tree import names_class, walk
from mmdet_mobileformer.errors import UserError

WARMUP_SHARE = 0.1  # of the run, at most
_MOMENTS = ('begin', 'end', 'T_max', 'step_size', 'total_steps', 'milestones', 'periods')
_HOOK_MOMENTS = ('switch_epoch', 'num_last_epochs', 'begin_epoch')
_FOREVER = 1 << 30  # what mmengine calls INF


def set_epochs(cfg: Config, epochs: int) -> None:
    """Train a number of epochs, in place, with the whole schedule in proportion.

    Milestones, begin and end of each schedule of learning rate and momentum, and the epochs at
    which hooks switch are scaled. A linear warm-up of iterations keeps these, but takes no more
    than a tenth of the run. Validations stay as many where the run becomes shorter, and as frequent
    where it becomes longer.

    Raises:
        UserError: If the number is not positive, or the config trains by iterations.
    """
    if epochs < 1:
        raise UserError(f'--epochs {epochs} must be at least 1.')
    loop = cfg.train_cfg
    if not loop.get('max_epochs'):
        raise UserError(
            f'--epochs needs a config that trains by epochs, and {cfg.filename} trains '
            f'{loop.get("max_iters")} iterations; give these and the milestones by --cfg-options '
            'train_cfg.max_iters=N.'
        )
    share = epochs / loop.max_epochs
    loop.max_epochs = epochs
    if 'max_epochs' in cfg:
        cfg.max_epochs = epochs
    if loop.get('val_interval'):
        loop.val_interval = _whole(loop.val_interval * min(1, share))
    if loop.get('val_begin'):
        loop.val_begin = _whole(loop.val_begin * share)
    if loop.get('dynamic_intervals'):
        loop.dynamic_intervals = [
            (_whole(begin * share), _whole(interval * min(1, share)))
            for begin, interval in loop.dynamic_intervals
        ]
    # Each schedule, of several optimisers too.
    for _, schedule in list(walk(cfg.get('param_scheduler'))):
        if 'type' in schedule:
            _scale(schedule, share, WARMUP_SHARE * epochs)
    for _, hook in walk(cfg.get('custom_hooks')):
        for name in set(_HOOK_MOMENTS) & set(hook):
            hook[name] = _whole(hook[name] * share)


def _scale(schedule: dict, share: float, longest_warmup: float) -> None:
    """Scale one schedule, in place; a warm-up is one that begins with the run and grows."""
    grows = schedule.get('start_factor', 1 / 3) < schedule.get('end_factor', 1)
    if (
        names_class(schedule, 'LinearLR')
        and not schedule.get('by_epoch', True)
        and not schedule.get('begin')
        and grows
    ):
        iterations = schedule.get('end', _FOREVER)
        for name in ('begin', 'by_epoch'):
            schedule.pop(name, None)
        end = round(longest_warmup, 4)
        schedule.update(type='WarmupLR', end=end, iterations=iterations, convert_to_iter_based=True)
        return
    exact = schedule.get('convert_to_iter_based', False)
    for name in set(_MOMENTS) & set(schedule):
        value = schedule[name]
        if isinstance(value, (list, tuple)):
            schedule[name] = sorted({_scaled(item, share, exact) for item in value})
        elif value is not None:
            schedule[name] = _scaled(value, share, exact)


def _scaled(value: float, share: float, exact: bool) -> float:
    if value <= 0 or value >= _FOREVER:
        return value
    return round(value * share, 4) if exact else _whole(value * share)


def _whole(value: float) -> int:
    return max(1, round(value))
