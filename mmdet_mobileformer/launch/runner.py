"""The Runner of the tools, on whose console the first iteration is in sight."""

import logging
from typing import Any

from mmdet.registry import RUNNERS
from mmengine.config import Config
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


def _is_shown(record: logging.LogRecord) -> bool:
    return not record.getMessage().lstrip('\n-').startswith(_TO_FILE_ALONE)


class ShortConsoleRunner(Runner):
    """mmengine's Runner, whose config, environment and lists go to its log file alone."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:  # noqa: ANN401 (mmengine's own)
        """Build the logger as mmengine does, and shorten what it shows."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_is_shown)
        logger.info(f'The log in {self._log_dir} also has config, environment and hooks.')
        return logger


class _Training(ShortConsoleRunner):
    """A Runner that saves its config when training begins, and not when it is built.

    What stops it before, such as a checkpoint of other classes or data, leaves the work directory's
    config to the run that it belongs to.
    """

    def dump_config(self) -> None:
        """Save nothing yet."""

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:  # noqa: ANN401 (mmengine's own)
        """Call a method of all hooks; behind the last ``before_train`` the config is saved."""
        super().call_hook(fn_name, **kwargs)
        if fn_name == 'before_train':
            super().dump_config()


class _Evaluation(ShortConsoleRunner):
    """A Runner that leaves the config that a training saved in the work directory."""

    def dump_config(self) -> None:
        """Save nothing; the log folder holds the evaluation's own config."""


def build_runner(cfg: Config, training: bool = False) -> Runner:
    """Build mmengine's Runner, or the one that ``runner_type`` names.

    Args:
        cfg: The config.
        training: Whether it is to train, and so saves the config in the work directory.
    """
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return (_Training if training else _Evaluation).from_cfg(cfg)
