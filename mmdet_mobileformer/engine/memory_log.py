"""Memory in the training log on machines without a GPU."""

from __future__ import annotations

import sys

import torch
from mmengine.registry import LOG_PROCESSORS
from mmengine.runner import LogProcessor, Runner

try:
    import resource
except ImportError:  # Windows has none
    resource = None


@LOG_PROCESSORS.register_module()
class MemoryLogProcessor(LogProcessor):
    """mmengine's LogProcessor, which also logs memory when training on the CPU.

    mmengine logs the peak memory of the GPU in MB; without a GPU this is the peak of the process's
    resident memory in MB (our decision), without that of the data loader's workers.
    """

    def get_log_after_iter(self, runner: Runner, batch_idx: int, mode: str) -> tuple[dict, str]:
        """Log tags and text of one iteration, as mmengine's, with ``memory`` in both."""
        tag, text = super().get_log_after_iter(runner, batch_idx, mode)
        if 'memory' not in tag and resource is not None and not torch.cuda.is_available():
            tag['memory'] = peak_resident_memory()
            text += f'  memory: {tag["memory"]}'
        return tag, text


def peak_resident_memory() -> int:
    """Peak resident memory of this process in MB (2^20 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 * 1024) if sys.platform == 'darwin' else peak // 1024
