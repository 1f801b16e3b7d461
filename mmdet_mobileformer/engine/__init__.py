"""What training and testing need beside the model: metric, logging, distribution, checks.

Importing it registers the classes that configs name. The functions behind the command line tools
live in its modules: `overrides` (flags to config), `hardening` (what every config gets),
`data_check`, `pretrained`, `resume`, `safe_loading`, `distributed`, `complexity`.
"""

from mmdet_mobileformer.engine.acceleration import AccelerationHook, RecomputeHook
from mmdet_mobileformer.engine.bad_images import (
    BadImageReportHook,
    LoadWholeImage,
    PackAnyDetInputs,
)
from mmdet_mobileformer.engine.checkpoint_fit import CheckpointFitHook
from mmdet_mobileformer.engine.checkpoint_hook import DurableCheckpointHook
from mmdet_mobileformer.engine.distributed import (
    CPUDistributedDataParallel,
    SameStatisticsHook,
)
from mmdet_mobileformer.engine.durable import DurableBackend
from mmdet_mobileformer.engine.finite import (
    BFloat16OptimWrapper,
    FiniteAmpOptimWrapper,
    FiniteHungarianAssigner,
    FiniteLossHook,
    FiniteOptimWrapper,
)
from mmdet_mobileformer.engine.logging import MemoryLogProcessor
from mmdet_mobileformer.engine.metric import FullCocoMetric
from mmdet_mobileformer.engine.termination import TerminationHook
from mmdet_mobileformer.engine.train_loop import (
    NamingIterBasedTrainLoop,
    ResumableBatchSampler,
    ResumableTrainLoop,
)

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
    'MemoryLogProcessor',
    'NamingIterBasedTrainLoop',
    'PackAnyDetInputs',
    'RecomputeHook',
    'ResumableBatchSampler',
    'ResumableTrainLoop',
    'SameStatisticsHook',
    'TerminationHook',
]
