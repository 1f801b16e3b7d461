"""Dynamic ReLU whose slopes are made by the tokens (paper, sec. 3; spatial-aware: eq. 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmdet_mobileformer.models import fused, pixelwise, pixelwise_training
from mmdet_mobileformer.models.convolution import ConvNorm
from mmdet_mobileformer.models.layout import weighted_sum
from mmdet_mobileformer.models.padding import hide_padding


class DynamicReLU(nn.Module):
    """``y = max(a1 * x, a2 * x)`` with slopes that the tokens decide.

    1. Every driving token z becomes ``theta = hsigmoid(Linear(ReLU(Linear(z))))``, halved into
       ``a1 = 2 * theta1`` in [0, 2] and ``a2 = 2 * theta2 - 1`` in [-1, 1] (released model).
    2. Without an assignment ('token'), the first token decides the slopes of a channel for the
       whole map (paper). With one ('spatial'), the slopes of a pixel are the sum of all tokens'
       slopes weighted by the pixel's assignment (paper, eq. 3). The parameters are the same.

    Args:
        token_dim: Channels D of a token.
        channels: Channels C of the features.
        reduction: Ratio of D to the hidden width (4 in the released model).
    """

    def __init__(self, token_dim: int, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(token_dim, token_dim // reduction)
        self.fc2 = nn.Linear(token_dim // reduction, 2 * channels)

    def forward(
        self,
        features: Tensor,
        tokens: Tensor,
        assignment: Tensor | None = None,
        before: ConvNorm | None = None,
        after: ConvNorm | None = None,
        padding_mask: Tensor | None = None,
        dropout: float = 0.0,
    ) -> Tensor:
        """Activate the features, with the convolutions before and behind it.

        Args:
            features: (N, C, H, W).
            tokens: (N, M, D).
            assignment: (N, M, H, W), a distribution over the M tokens at every pixel, or None.
            before: Convolution that makes what is activated of the features.
            after: Convolution of the activated features. Where that takes less memory, training
                makes them again in backward, instead of remembering them beside the features.
            padding_mask: (N, H, W) bool, True at padded pixels, which are zero to a convolution
                behind that reads neighbours.
            dropout: Share of the activated features that training drops.

        Returns:
            (N, C, H, W), or what the convolution makes of it.
        """
        slopes = self.slopes(tokens if assignment is not None else tokens[:, :1])
        dropout = dropout if self.training else 0.0
        pointwise = after if after is not None and after.is_pointwise else None
        layers = features, before, pointwise
        if not dropout and pixelwise.applies(*layers):
            update = pixelwise.chained(*layers, *_as(features, slopes, assignment))
        elif pixelwise_training.applies(*layers):
            update = pixelwise_training.chained(
                *layers, *_as(features, slopes, assignment), dropout
            )
        else:
            features = features if before is None else before(features)
            slopes, assignment = _as(features, slopes, assignment)  # as the layer before made them
            return _layer_by_layer(features, slopes, assignment, after, padding_mask, dropout)
        is_done = after is None or pointwise is not None
        return update if is_done else after(hide_padding(update, padding_mask))

    def slopes(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes a1 and a2 that every token wants: (N, M, D) to (N, C, M) each."""
        theta = F.hardsigmoid(self.fc2(F.relu(self.fc1(tokens))))
        theta1, theta2 = theta.chunk(2, dim=-1)
        slopes = torch.cat([2 * theta1, 2 * theta2 - 1], dim=-1)  # (N, M, 2C)
        return slopes.transpose(1, 2).chunk(2, dim=1)


def _as(
    features: Tensor, slopes: tuple[Tensor, Tensor], assignment: Tensor | None
) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
    """Slopes and assignment in the features' dtype."""
    a1, a2 = (one.to(features.dtype) for one in slopes)
    return (a1, a2), None if assignment is None else assignment.to(features.dtype)


def _layer_by_layer(
    features: Tensor,
    slopes: tuple[Tensor, Tensor],
    assignment: Tensor | None,
    after: ConvNorm | None,
    padding_mask: Tensor | None,
    dropout: float,
) -> Tensor:
    """The activation and the convolution behind it, where they cannot be chained."""
    compiling, training = torch.compiler.is_compiling(), torch.is_grad_enabled()
    if after is not None and training and not compiling and not dropout:
        return fused.activated_conv(features, *slopes, assignment, after, padding_mask)
    # Compilers and exported files take the formula, which they fuse themselves.
    activate = two_slopes if compiling and not training else fused.two_slopes
    update = F.dropout(activate(features, *slopes, assignment), dropout)
    return update if after is None else after(hide_padding(update, padding_mask))


def two_slopes(x: Tensor, a1: Tensor, a2: Tensor, assignment: Tensor | None = None) -> Tensor:
    """``max(a1 * x, a2 * x)`` as it is written; ``fused.two_slopes`` is the same in fewer passes.

    Args:
        x: (N, C, H, W).
        a1: Slopes (N, C, M) of the tokens; without an assignment M is 1.
        a2: The other slopes, shaped alike.
        assignment: (N, M, H, W), the tokens' shares of every pixel's slopes, or None.

    Returns:
        (N, C, H, W).
    """
    if assignment is None:
        a1, a2 = a1[..., None], a2[..., None]  # (N, C, 1, 1)
    else:
        a1, a2 = (weighted_sum(a, assignment, x) for a in (a1, a2))  # (N, C, H, W)
    return torch.maximum(a1 * x, a2 * x)
