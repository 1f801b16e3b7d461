"""The Mobile-Former backbone for mmdet's detectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from mmdet.registry import MODELS
from mmengine.logging import print_log
from mmengine.model import BaseModule, update_init_info
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdet_mobileformer.checkpoints.pretrained import load_pretrained
from mmdet_mobileformer.models.arch import STEM_STRIDE, ArchSpec
from mmdet_mobileformer.models.block import DYNAMIC_RELU_MODES, build_block
from mmdet_mobileformer.models.convolution import ConvNorm, conv_norm
from mmdet_mobileformer.models.layout import channels_last
from mmdet_mobileformer.models.padding import mask_at
from mmdet_mobileformer.models.recompute import recomputed_in_training


@MODELS.register_module()
class MobileFormer(BaseModule):
    """Mobile-Former: MobileNet and a transformer in parallel, with a two-way bridge (CVPR 2022).

    Level i is the output of the last block of stride 2^(i+1). Blocks behind the last wanted level
    are not built, so every parameter gets a gradient; ImageNet's last Mobile→Former belongs to the
    classifier.

    Args:
        arch: '26m', '52m', '96m', '151m', '214m', '294m', '508m' (released models; 294m also paper,
            table 1), or an :class:`ArchSpec` or a dict of its fields.
        in_channels: Channels of the image.
        dynamic_relu: 'token': the first token decides the slopes of the activations (paper, sec.
            3); 'spatial': all tokens, pixel by pixel (paper, eq. 3). The weights fit both.
        out_indices: Levels to return, ascending; (1, 2, 3, 4) are the strides 4, 8, 16, 32.
        frozen_stages: -1 trains everything; 0 freezes the stem and the first tokens; k freezes the
            blocks of strides up to 2^k as well.
        norm_eval: Keep the statistics of BatchNorm fixed while training.
        norm_cfg: Norm after every convolution.
        drop_path_rate: Drop-path rate of the last block; grows linearly from 0 at the first.
        with_cp: Recompute blocks in backward instead of keeping their activations. No number
            changes, the running statistics of BatchNorm included.
        init_cfg: As in mmengine. Default: the released model's initialisation.

    Raises:
        ValueError: If ``arch``, ``dynamic_relu``, a level or ``frozen_stages`` is unknown.

    Examples:
        >>> import torch
        >>> from mmdet_mobileformer.models import MobileFormer
        >>> backbone = MobileFormer('26m', out_indices=(2, 3, 4)).eval()
        >>> [tuple(level.shape) for level in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 24, 8, 12), (1, 64, 4, 6), (1, 96, 2, 3)]
        >>> backbone.out_channels, backbone.strides
        ((24, 64, 96), (8, 16, 32))
    """

    arrange = staticmethod(channels_last)  # the images' layout, which all maps take over

    def __init__(
        self,
        arch: str | dict[str, Any] | ArchSpec,
        in_channels: int = 3,
        dynamic_relu: str = 'token',
        out_indices: Sequence[int] = (1, 2, 3, 4),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict[str, Any] | None = None,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg=RELEASED_INIT if init_cfg is None else init_cfg)
        self.arch = ArchSpec.parse(arch)
        levels = self.arch.level_blocks
        _check_choices(arch, levels, dynamic_relu, out_indices, frozen_stages)
        self.dynamic_relu = dynamic_relu
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        norm_cfg = dict(type='BN') if norm_cfg is None else norm_cfg

        self.tokens = nn.Parameter(torch.randn(self.arch.num_tokens, self.arch.token_dim))
        stem = (in_channels, self.arch.stem_channels)
        self.stem = conv_norm(*stem, 3, norm_cfg, STEM_STRIDE, act_cfg=dict(type='ReLU6'))
        num_blocks = levels[self.out_indices[-1]] + 1
        drop_path_rates = [drop_path_rate * i / max(num_blocks - 1, 1) for i in range(num_blocks)]
        self.blocks = nn.ModuleList()
        channels = self.arch.stem_channels
        for spec, drop_path in zip(self.arch.blocks[:num_blocks], drop_path_rates, strict=True):
            self.blocks.append(
                build_block(channels, spec, self.arch, norm_cfg, dynamic_relu, drop_path)
            )
            channels = spec.out_channels
        self._out_blocks = {levels[index]: index for index in self.out_indices}
        self._freeze()

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each returned level."""
        return tuple(self.arch.blocks[block].out_channels for block in self._out_blocks)

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each returned level with respect to the image."""
        return tuple(2 ** (index + 1) for index in self.out_indices)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Compute the feature maps of an image batch.

        Args:
            x: Normalised images (N, 3, H, W), at least 32 pixels on a side.
            padding_mask: (N, H, W) bool, True at padded pixels, which then get no attention and are
                zero to the convolutions.

        Returns:
            One map (N, C_i, ceil(H / s_i), ceil(W / s_i)) for each of ``out_indices``.
        """
        return self.forward_tokens(x, padding_mask)[0]

    def forward_tokens(
        self, x: Tensor, padding_mask: Tensor | None = None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """As :meth:`forward`, and also return the tokens (N, M, D) after the last block."""
        features = self.stem(self.arrange(x) if self._goes_by_pixel() else x)
        tokens = self.tokens.expand(x.shape[0], -1, -1)
        mask = mask_at(padding_mask, STEM_STRIDE)
        outputs = []
        for index, block in enumerate(self.blocks):
            run = recomputed_in_training(block, block) if self.with_cp else block
            features, tokens = run(features, tokens, mask)
            mask = mask_at(mask, self.arch.blocks[index].stride)
            if index in self._out_blocks:
                outputs.append(features)
        return tuple(outputs), tokens

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen stages and, with ``norm_eval``, all BatchNorms stay in eval mode."""
        super().train(mode)
        if mode:
            for module in self._frozen_modules():
                module.eval()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says; local pretrained weights must fit, every one of them.

        Raises:
            FileNotFoundError: If the named file of pretrained weights does not exist.
            UserError: If it holds more than data, or weights of another arch.
        """
        pretrained = isinstance(self.init_cfg, dict) and self.init_cfg.get('type') == 'Pretrained'
        if self.is_init or not pretrained or '://' in self.init_cfg['checkpoint']:
            super().init_weights()
            return
        name = self.init_cfg['checkpoint']
        if not Path(name).expanduser().is_file():
            raise FileNotFoundError(
                f'the pretrained weights {name!r} of the backbone do not exist; '
                'make them with tools/convert_checkpoint.py, name others by '
                'init_cfg.checkpoint, or train without by --from-scratch (init_cfg=None)'
            )
        load_pretrained(self, name, self.init_cfg.get('prefix') or '')
        print_log(f'All weights of the backbone are those of {name}.', logger='current')
        if hasattr(self, '_params_init_info'):
            update_init_info(self, init_info=f'pretrained weights of {name}')
        self.is_init = True

    def _goes_by_pixel(self) -> bool:
        """Whether maps may lie with the channels of a pixel side by side (:mod:`.layout`).

        Grouped pointwise convolutions are faster on the shape's own order, and PyTorch sums the
        statistics of a training BatchNorm in float32 where channels lie side by side: of two
        photographs at 800×1216 the stem's result is wrong by 7e-4 of its spread.
        """
        convs = [module for module in self.modules() if isinstance(module, ConvNorm)]
        return self.arch.groups == 1 and all(conv.norms_pixels for conv in convs)

    def _frozen_modules(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        built = zip(self.blocks, self.arch.block_strides, strict=False)  # the last may not be
        frozen = [block for block, stride in built if stride <= 2**self.frozen_stages]
        return [self.stem, *frozen]

    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.eval().requires_grad_(False)
        self.tokens.requires_grad_(self.frozen_stages < 0)


# Released model: convolutions normal with std sqrt(2 / (k² C_out)), Linear normal with std 0.01,
# zero biases, norms 1 and 0. The tokens are normal(0, 1).
RELEASED_INIT = [
    dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
    dict(type='Normal', layer='Linear', std=0.01),
    dict(type='Constant', layer=['_BatchNorm', 'GroupNorm', 'LayerNorm'], val=1),
]


def _check_choices(
    arch: Any,  # noqa: ANN401 (as the user wrote it)
    levels: dict[int, int],
    dynamic_relu: str,
    out_indices: Sequence[int],
    frozen_stages: int,
) -> None:
    if dynamic_relu not in DYNAMIC_RELU_MODES:
        raise ValueError(f'unknown dynamic_relu {dynamic_relu!r}; choose from {DYNAMIC_RELU_MODES}')
    name = arch if isinstance(arch, str) else 'the given architecture'
    for index in out_indices:
        if index not in levels:
            raise ValueError(
                f'{name} has no level {index} (stride {2 ** (index + 1)}); '
                f'choose out_indices from {tuple(levels)}'
            )
    if not out_indices or list(out_indices) != sorted(set(out_indices)):
        raise ValueError(f'out_indices must ascend and name a level at least, not {out_indices}')
    if not -1 <= frozen_stages <= max(levels) + 1:
        raise ValueError(f'frozen_stages must be -1 to {max(levels) + 1}, not {frozen_stages}')
