"""Recomputing modules in backward instead of keeping their activations; no number changes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed_in_training(module: nn.Module, forward: Callable) -> Callable:
    """``forward`` of a module, which training recomputes: for what costs less than it keeps.

    PyTorch restores the random state for the second run; the running statistics of BatchNorm, which
    it would move a second time, are kept as they are (our decision). In a compiled graph the
    compiler decides what to recompute.

    Args:
        module: Whose mode counts, and whose BatchNorms are meant.
        forward: The module or its method.
    """
    training = module.training and torch.is_grad_enabled()
    if not training or torch.compiler.is_compiling():
        return forward
    return partial(
        checkpoint,
        forward,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _fixed_running_statistics(module)),
    )


@contextmanager
def _fixed_running_statistics(module: nn.Module) -> Iterator[None]:
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.sub_(1)
