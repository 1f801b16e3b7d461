"""Measuring prepared models in alternating order, so that ratios hold on a noisy machine."""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from mmdet_mobileformer.analysis.complexity import count_macs
from mmdet_mobileformer.analysis.zoo import TensorPath, build_model
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.cpu_memory import release_freed_memory


@dataclass
class Case:
    """One thing to measure, and what was measured."""

    model: str
    threads: int
    runtime: str = 'eager'  # or 'compiled', 'onnx'
    height: int = 800
    width: int = 1280
    batch: int = 1
    training: bool = False
    device: str = 'cpu'
    dtype: str = 'float32'  # or 'float16', 'bfloat16': automatic mixed precision
    macs: int = 0  # of one forward pass of the batch
    saved_bytes: int = 0  # activations kept for backward, weights left out
    peak_bytes: int = 0  # growth of memory during one run
    times: list[float] = field(default_factory=list)  # seconds, one a round

    def summary(self, sgemm_rate: float, first: Self) -> dict[str, Any]:
        """Figures of the table; ``ratio`` is the first case's time over this one's, by round."""
        times = np.array(self.times)
        low, median, high = np.percentile(times, (25, 50, 75))
        return {
            **{k: v for k, v in asdict(self).items() if k != 'times'},
            'median_ms': 1e3 * median,
            'spread_ms': 1e3 * (high - low),
            'images_per_s': self.batch / median,
            'sgemm_share': 0.0 if self.training else self.macs / median / sgemm_rate,
            'ratio': float(np.median(np.array(first.times) / times)),
        }


def measure(cases: Sequence[Case], rounds: int) -> None:
    """Prepare every case, then run each once a round, every second round in reverse order.

    Raises:
        UserError: If ONNX Runtime is asked for more than float32 inference on the CPU.
    """
    runs = []
    for case in cases:
        torch.set_num_threads(case.threads)
        runs.append((case, prepare(case)))
        print(f'prepared {case.model} {case.runtime}', file=sys.stderr)
    for index in range(rounds):
        for case, run in runs if index % 2 == 0 else runs[::-1]:
            torch.set_num_threads(case.threads)
            start = time.perf_counter()
            run()
            case.times.append(time.perf_counter() - start)


def prepare(case: Case) -> Callable[[], None]:
    """Build, warm up and measure what needs no time: MACs, memory, saved activations."""
    model = TensorPath(build_model(case.model)).train(case.training)
    images = torch.randn(case.batch, 3, case.height, case.width)
    case.macs = count_macs(model, images)['']
    if case.runtime == 'onnx':
        if case.training or (case.device, case.dtype) != ('cpu', 'float32'):
            raise UserError('onnx is measured in float32 inference on the CPU; leave it out.')
        run = _onnx_run(model, images, case.threads)
    else:
        model, images = model.to(case.device), images.to(case.device)
        if case.runtime == 'compiled':
            model.compile(dynamic=False)
        run = _torch_run(model, images, case.dtype)
        run()
    run()
    if case.training:
        with _autocast(images, case.dtype):
            case.saved_bytes = saved_bytes(model, images)
    case.peak_bytes = peak_of(run, case.device)
    return run


def _autocast(images: Tensor, dtype: str) -> torch.autocast:
    return torch.autocast(images.device.type, getattr(torch, dtype), enabled=dtype != 'float32')


def _torch_run(model: nn.Module, images: Tensor, dtype: str) -> Callable[[], None]:
    def run() -> None:
        if model.training:
            model.zero_grad(set_to_none=True)
            with _autocast(images, dtype):
                outputs = model(images)
            sum(output.float().square().mean() for output in outputs).backward()
        else:
            with torch.inference_mode(), _autocast(images, dtype):
                model(images)
        if images.is_cuda:
            torch.cuda.synchronize()

    return run


def _onnx_run(model: nn.Module, images: Tensor, threads: int) -> Callable[[], None]:
    import onnxruntime  # here, since nothing else in the benchmark needs it

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / 'model.onnx'
        torch.onnx.export(model, (images,), str(path), dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry('session.set_denormal_as_zero', '1')  # as open_session
        # Or its threads would go on waiting busily while the next model is measured.
        options.add_session_config_entry('session.force_spinning_stop', '1')
        session = onnxruntime.InferenceSession(
            str(path), options, providers=['CPUExecutionProvider']
        )
    feed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, feed)


def saved_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes of the tensors that a forward pass keeps for backward.

    Weights are left out, and their 16-bit copies, which are known by their shapes.
    """
    shapes = {tensor.shape for tensor in model.parameters()}
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.float32 or tensor.shape not in shapes:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model(images)
    total = sum(
        tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights
    )
    del outputs
    return total


def peak_of(run: Callable[[], None], device: str) -> int:
    """Bytes by which memory grows at most during one run, of the GPU or resident on the CPU.

    0 on a CPU whose system is not Linux.
    """
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    release_freed_memory()
    try:
        Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
    except OSError:
        return 0
    before = _status('VmRSS')
    run()
    return max(_status('VmHWM') - before, 0)


def _status(name: str) -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def sgemm_rate(device: str, threads: int, size: int = 2048) -> float:
    """MACs a second of a square float32 matrix product."""
    left, right = torch.randn(2, size, size, device=device)
    timer = Timer('left @ right', globals=dict(left=left, right=right), num_threads=threads)
    return size**3 / timer.blocked_autorange(min_run_time=1).median
