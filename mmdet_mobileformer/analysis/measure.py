"""Measuring prepared models in alternating order, so that ratios hold on a noisy machine."""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from mmdet_mobileformer.analysis.complexity import count_macs
from mmdet_mobileformer.analysis.zoo import TensorPath, build_model
from mmdet_mobileformer.errors import UserError
from mmdet_mobileformer.launch.cpu_memory import release_freed_memory

RUNTIMES = ('eager', 'compiled', 'onnx')
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


@dataclass
class Case:
    """One thing to measure, and what was measured."""

    model: str
    runtime: str
    height: int
    width: int
    batch: int
    threads: int
    dtype: str
    training: bool
    macs: int = 0  # of one forward pass of the batch
    saved_bytes: int = 0  # activations kept for backward, weights left out
    peak_bytes: int = 0  # growth of memory during one run
    times: list[float] = field(default_factory=list)  # seconds, one a round

    def summary(self, sgemm_rate: float, first: Self) -> dict[str, Any]:
        """Figures of the table; ``ratio`` is the first case's time over this one's, by round."""
        times = np.array(self.times)
        low, median, high = np.percentile(times, (25, 50, 75))
        share = 0.0 if self.training else self.macs / median / sgemm_rate
        return {
            **{k: v for k, v in asdict(self).items() if k != 'times'},
            'median_ms': 1e3 * median,
            'spread_ms': 1e3 * (high - low),
            'images_per_s': self.batch / median,
            'sgemm_share': share,
            'ratio': float(np.median(np.array(first.times) / times)),
        }


def all_cases(
    models: Sequence[str],
    runtimes: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    batches: Sequence[int],
    threads: Sequence[int],
    dtypes: Sequence[str],
    training: bool,
    device: str = 'cpu',
) -> list[Case]:
    """Every combination.

    Raises:
        UserError: If ONNX Runtime is asked to train, to compute in 16 bits, or to use a GPU.
    """
    if 'onnx' in runtimes and (training or set(dtypes) != {'fp32'} or device != 'cpu'):
        raise UserError('onnx is measured in inference, fp32, on the CPU; leave it out.')
    grid = product(sizes, batches, threads, dtypes, runtimes, models)
    return [
        Case(model, runtime, *size, batch, thread, dtype, training)
        for size, batch, thread, dtype, runtime, model in grid
    ]


def measure(cases: Sequence[Case], rounds: int, device: str, log: Callable[[str], None]) -> None:
    """Prepare every case, then run each once a round, every second round in reverse order."""
    runs = []
    for case in cases:
        torch.set_num_threads(case.threads)
        run = prepare(case, device)
        runs.append((case, run))
        log(f'prepared {case.model} {case.runtime} {case.height}x{case.width} x{case.batch}')
    for index in range(rounds):
        for case, run in runs if index % 2 == 0 else runs[::-1]:
            torch.set_num_threads(case.threads)
            start = time.perf_counter()
            run()
            case.times.append(time.perf_counter() - start)


def prepare(case: Case, device: str) -> Callable[[], None]:
    """Build, warm up and measure what needs no time: MACs, memory, saved activations."""
    dtype = DTYPES[case.dtype]
    model = TensorPath(build_model(case.model)).train(case.training)
    images = torch.randn(case.batch, 3, case.height, case.width)
    case.macs = count_macs(model, images)
    if case.runtime == 'onnx':
        run = _onnx_run(model, images, case.threads)
        run()
        case.peak_bytes = peak_of(run, device)
        return run
    # As trainers do it, 16 bits in training are automatic mixed precision.
    stored = torch.float32 if case.training else dtype
    model, images = model.to(device, stored), images.to(device, stored)
    if case.runtime == 'compiled':
        model.compile(dynamic=False)
    make_run = _training_run if case.training else _inference_run
    run = make_run(model, images, dtype)
    try:
        run()
    except ValueError as error:
        if 'more than 1 value per channel' not in str(error):  # PyTorch's batch normalisation
            raise
        raise UserError(
            f'{case.model} has one pixel left to normalise over in training with images of '
            f'{case.height}x{case.width}; take larger --sizes or --batch-sizes.'
        ) from None
    run()
    if case.training:
        with _autocast(images, dtype):
            case.saved_bytes = saved_bytes(model, images)
    case.peak_bytes = peak_of(run, device)
    return run


def _autocast(images: Tensor, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32)


def _inference_run(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    def run() -> None:
        # The weights are of this type already, but mmdet's position embedding is not.
        with torch.inference_mode(), _autocast(images, dtype):
            model(images)
        if images.is_cuda:
            torch.cuda.synchronize()

    return run


def _training_run(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    def run() -> None:
        model.zero_grad(set_to_none=True)
        with _autocast(images, dtype):
            outputs = model(images)
        sum(output.float().square().mean() for output in outputs).backward()
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
        # Or its threads would go on waiting busily while the next model is measured.
        options.add_session_config_entry('session.force_spinning_stop', '1')
        session = onnxruntime.InferenceSession(
            str(path), options, providers=['CPUExecutionProvider']
        )
    feed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, feed)


def saved_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes of the tensors that a forward pass keeps for backward, weights left out.

    Automatic mixed precision keeps 16-bit copies of weights too, which are known by their shapes.
    """
    weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    shapes = {tensor.shape for tensor in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        copied = tensor.dtype != torch.float32 and tensor.shape in shapes
        if not copied and tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model(images)
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del outputs
    return total


def peak_of(run: Callable[[], None], device: str) -> int:
    """Bytes by which memory grows at most during one run: of the GPU, or resident on the CPU.

    0 where the system does not tell (the CPU's peak is known on Linux alone).
    """
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    if not sys.platform.startswith('linux'):
        return 0
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


def sgemm_rate(device: str, threads: int, size: int = 2048, repeats: int = 7) -> float:
    """MACs a second of a square float32 matrix product, the median of some."""
    torch.set_num_threads(threads)
    left, right = torch.randn(2, size, size, device=device)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(left, right)
        if device == 'cuda':
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return size**3 / float(np.median(times))
