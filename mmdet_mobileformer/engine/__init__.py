"""What lives inside a run: hooks, loops, wrappers, metric, image loading; configs name them.

Importing it registers them. It may import `models` and what lies below, and nothing that makes or
changes a config.
"""

from mmdet_mobileformer.checkpoints.writing import DurableBackend
from mmdet_mobileformer.engine.acceleration import AccelerationHook, RecomputeHook
from mmdet_mobileformer.engine.checkpoint_fit import CheckpointFitHook
from mmdet_mobileformer.engine.distributed import (
    CPUDistributedDataParallel,
    SameStatisticsHook,
)
from mmdet_mobileformer.engine.finite import (
    BFloat16OptimWrapper,
    FiniteAmpOptimWrapper,
    FiniteHungarianAssigner,
    FiniteLossHook,
    FiniteOptimWrapper,
)
from mmdet_mobileformer.engine.images import (
    BadImageReportHook,
    LoadWholeImage,
    SkippingVisualizationHook,
)
from mmdet_mobileformer.engine.metric import FullCocoMetric
from mmdet_mobileformer.engine.processor_time import ProcessorTimeHook
from mmdet_mobileformer.engine.resuming.checkpoint_hook import DurableCheckpointHook
from mmdet_mobileformer.engine.resuming.termination import TerminationHook
from mmdet_mobileformer.engine.resuming.train_loop import (
    ResumableBatchSampler,
    ResumableTrainLoop,
)
from mmdet_mobileformer.engine.warmup import WarmupLR

__all__ = [
    'AccelerationHook',
    'BFloat16OptimWrapper',
    'BadImageReportHook',
    'CPUDistributedDataParallel',
    'CheckpointFitHook',
    'DurableBackend',
    'DurableCheckpointHook',
    'FiniteAmpOptimWrapper',
    'FiniteHungarianAssigner',
    'FiniteLossHook',
    'FiniteOptimWrapper',
    'FullCocoMetric',
    'LoadWholeImage',
    'ProcessorTimeHook',
    'RecomputeHook',
    'ResumableBatchSampler',
    'ResumableTrainLoop',
    'SameStatisticsHook',
    'SkippingVisualizationHook',
    'TerminationHook',
    'WarmupLR',
]
