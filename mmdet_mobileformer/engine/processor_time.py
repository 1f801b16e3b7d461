"""AP over the processor time that training took: what a comparison on a shared machine needs."""

import json
import time
from pathlib import Path

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner

_SECONDS = 'train_processor_seconds'  # its name in the message hub, which checkpoints hold


@HOOKS.register_module()
class ProcessorTimeHook(Hook):
    """Writes AP and the training's processor time so far after every validation.

    Processor time of this process does not depend on what else the machine does. It counts training
    steps, and loading where that is in the same process (``num_workers=0``), not validation; a
    resumed run goes on counting. ``processor_time.json`` in the work directory holds ``complete``,
    and ``points`` of ``epoch``, ``minutes``, ``AP``, ``AP_50`` and ``AP_75``. For runs of one
    process.
    """

    def before_train(self, runner: Runner) -> None:
        """Take up what an interrupted run wrote."""
        self._path = Path(runner.work_dir) / 'processor_time.json'
        resumed = runner.iter > 0 and self._path.is_file()
        points = json.loads(self._path.read_text())['points'] if resumed else []
        self._points = [point for point in points if point['epoch'] <= runner.epoch]

    def before_train_epoch(self, runner: Runner) -> None:
        """Start to count: what lies between epochs does not belong to them."""
        self._start = time.process_time()

    def after_train_iter(self, runner: Runner, *args: object, **kwargs: object) -> None:
        """Add this iteration's time, loading included."""
        now = time.process_time()
        seconds = _seconds(runner) + now - self._start
        self._start = now
        runner.message_hub.update_info(_SECONDS, seconds)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the file."""
        if not metrics or 'coco/bbox_mAP' not in metrics:
            return
        figures = {name: metrics[f'coco/bbox_m{name}'] for name in ('AP', 'AP_50', 'AP_75')}
        minutes = round(_seconds(runner) / 60, 2)
        self._points.append(dict(epoch=runner.epoch, minutes=minutes, **figures))
        complete = runner.epoch == runner.max_epochs
        text = json.dumps(dict(complete=complete, points=self._points), indent=1)
        self._path.write_text(text + '\n')


def _seconds(runner: Runner) -> float:
    return runner.message_hub.runtime_info.get(_SECONDS, 0.0)
