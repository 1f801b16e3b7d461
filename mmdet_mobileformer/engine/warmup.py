"""A warm-up that a short run can bear."""

from typing import Any, Self

from mmengine.optim.scheduler import LinearLR
from mmengine.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class WarmupLR(LinearLR):
    """mmengine's LinearLR from the first iteration on, for the fewer of ``end`` and ``iterations``.

    ``end`` counts epochs and may be a fraction; which are fewer is known when training begins. A
    config names it with ``convert_to_iter_based=True``.

    Examples:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> shared = dict(optimizer=optimizer, start_factor=0.1, iterations=500)
        >>> WarmupLR.build_iter_from_epoch(**shared, end=1.2, epoch_length=100).end
        120
    """

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args: Any,  # noqa: ANN401 (LinearLR's own, as the other ones)
        end: float,
        epoch_length: int,
        iterations: int | None = None,
        by_epoch: bool = True,
        **kwargs: Any,  # noqa: ANN401
    ) -> Self:
        """Build the schedule for an epoch of so many iterations; mmengine calls it."""
        length = int(end * epoch_length)
        length = min(length, iterations) if iterations else length
        return cls(*args, begin=0, end=max(2, length), by_epoch=False, **kwargs)
