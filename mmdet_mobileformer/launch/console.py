"""A console on which the first iteration is in sight; the log file holds everything."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.logging import MMLogger
from mmengine.runner import Runner

# How the records begin that fill screens before the first iteration.
_TO_FILE_ALONE = (
    'System environment:',
    'Config:',
    'Hooks will be executed in the following order:',
    'paramwise_options -- ',
    'Name of parameter - Initialization information',
    'Distributed training is not used, all SyncBatchNorm',
    '"FileClient" will be deprecated',  # mmengine's own hooks use it
    '"HardDiskBackend" is the alias',
)


class _Short(logging.Filter):
    """Passes over what is for the log file alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        return not record.getMessage().lstrip('\n-').startswith(_TO_FILE_ALONE)


class ShortConsoleRunner(Runner):
    """mmengine's Runner, whose config, environment and lists go to its log file alone."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:  # noqa: ANN401 (mmengine's own)
        """Build the logger as mmengine does, and shorten what it shows."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_Short())
        logger.info(f'The log in {self._log_dir} also has config, environment and hooks.')
        return logger
