"""The bridge between the two streams (paper, eq. 1 and 2)."""

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from mmdet_mobileformer.models import exported, fused
from mmdet_mobileformer.models.layout import is_channels_last, pixels_at_once
from mmdet_mobileformer.models.recompute import recomputed_in_training


class MobileToFormer(nn.Module):
    """Cross attention that updates the tokens from the features (paper, eq. 1).

    1. Queries are projected from the tokens; keys and values are the features as they are, so the
       Mobile side costs no projection.
    2. Attention over the pixels, which may not see padding.
    3. The result passes a gate made by the tokens (released model, not in the paper), is projected
       to the tokens' width, added to them and normalised.

    Args:
        in_channels: Channels C of the features.
        token_dim: Channels D of a token.
        num_heads: Heads; 2 in the backbone.
        gated: Whether the gate of step 3 is there.
        dropout: Dropped share of what is added to the tokens.
        drop_path: Rate at which a sample skips the update.
    """

    def __init__(
        self,
        in_channels: int,
        token_dim: int,
        num_heads: int = 2,
        gated: bool = True,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (in_channels // num_heads) ** -0.5
        self.query = nn.Linear(token_dim, in_channels)
        self.attention = nn.Softmax(dim=-1)  # a module, so that hooks see who reads what
        self.gate = nn.Linear(token_dim, in_channels) if gated else None
        self.proj = nn.Linear(in_channels, token_dim)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)
        self.norm = nn.LayerNorm(token_dim)

    def forward(
        self,
        features: Tensor,
        tokens: Tensor,
        feature_pos: Tensor | None = None,
        token_pos: Tensor | None = None,
        padding_mask: Tensor | None = None,
        prior: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Update the tokens.

        Args:
            features: (N, C, H, W).
            tokens: (N, M, D).
            feature_pos: (N, C, H, W), added to the features where they are keys.
            token_pos: (N, M, D), added to the tokens where they make queries.
            padding_mask: (N, H, W) bool, True at padded pixels, which get no attention.
            prior: What is added to the logits, as a product of coefficients of the tokens
                (N, heads, M, P) and powers of the pixels' places (N or 1, P, HW); None adds none.

        Returns:
            The tokens (N, M, D), and the scaled logits (N, heads, M, H, W) before the softmax and
            without the mask, from which spatial-aware dynamic ReLU takes its assignment.
        """
        query = self.query(tokens if token_pos is None else tokens + token_pos) * self.scale
        query = query.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (N, heads, M, C / heads)
        read = self._read
        if _outweigh_features(query, features):  # a product more, where the maps are large
            read = recomputed_in_training(self, self._read)
        update, logits = read(query, features, feature_pos, padding_mask, prior)

        if self.gate is not None:
            update = update * (2 * F.hardsigmoid(self.gate(tokens)))
        tokens = self.norm(tokens + self.drop_path(self.dropout(self.proj(update))))
        return tokens, logits

    def _read(
        self,
        query: Tensor,
        features: Tensor,
        feature_pos: Tensor | None,
        padding_mask: Tensor | None,
        prior: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Step 2, from queries (N, heads, M, C / heads) to (N, M, C), and the logits."""
        value = _factor(features, self.num_heads)  # (N, heads, C / heads, HW)
        key = value if feature_pos is None else _factor(features + feature_pos, self.num_heads)

        # With many tokens a head's map alone stays in the cache.
        if _in_pieces(query, key) and query.shape[2] > query.shape[3]:
            logits, update = self._read_by_head(query, key, value, padding_mask, prior)
        else:
            logits = query @ key if prior is None else _with_prior(query, key, *prior)
            update = self._attend(logits, value, padding_mask, prior is not None)
        return update.transpose(1, 2).flatten(2), logits.unflatten(3, features.shape[-2:])

    def _attend(
        self, logits: Tensor, value: Tensor, padding_mask: Tensor | None, has_prior: bool
    ) -> Tensor:
        """Values (N, heads, C / heads, HW), as the logits (N, heads, M, HW) weigh them."""
        if padding_mask is not None:
            logits = logits.masked_fill(padding_mask.flatten(1)[:, None, None], float('-inf'))
        attention = self.attention(logits)
        if has_prior:
            attention = without_traces(attention)
        return attention.to(value.dtype) @ value.transpose(2, 3)

    def _read_by_head(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        padding_mask: Tensor | None,
        prior: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Logits and update one head after the other, the prior's product added in place."""
        logits = key.new_empty(*query.shape[:3], key.shape[3])
        updates = []
        for head in range(self.num_heads):
            part = torch.bmm(query[:, head], key[:, head], out=logits[:, head])
            if prior is not None:
                coefficients, powers = (one.to(part.dtype) for one in prior)
                part.baddbmm_(coefficients[:, head], powers.expand(len(part), -1, -1))
            seen = value[:, head : head + 1]
            updates.append(self._attend(part[:, None], seen, padding_mask, prior is not None))
        return logits, torch.cat(updates, dim=1)


class FormerToMobile(nn.Module):
    """Cross attention that adds the tokens to the features (paper, eq. 2).

    Queries are the features as they are; keys and values are projected from the tokens; the softmax
    is over the tokens.

    Args:
        out_channels: Channels C of the features.
        token_dim: Channels D of a token.
        num_heads: Heads; 2 in the backbone.
        dropout: Dropped share of what is added to the features.
        drop_path: Rate at which a sample skips the update.
    """

    def __init__(
        self,
        out_channels: int,
        token_dim: int,
        num_heads: int = 2,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (out_channels // num_heads) ** -0.5
        self.key = nn.Linear(token_dim, out_channels)
        self.value = nn.Linear(token_dim, out_channels)
        self.attention = nn.Softmax(dim=2)  # a module, so that hooks see it in eval mode
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(
        self,
        features: Tensor,
        tokens: Tensor,
        feature_pos: Tensor | None = None,
        token_pos: Tensor | None = None,
    ) -> Tensor:
        """Update the features.

        Args:
            features: (N, C, H, W).
            tokens: (N, M, D).
            feature_pos: (N, C, H, W), added to the features where they are queries.
            token_pos: (N, M, D), added to the tokens where they make keys.

        Returns:
            The features (N, C, H, W).
        """
        key = self.key(tokens if token_pos is None else tokens + token_pos) * self.scale
        key = key.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (N, heads, M, C / heads)
        value = self.value(tokens).unflatten(2, (self.num_heads, -1)).permute(0, 2, 3, 1)

        if not self.training and _in_pieces(features, value) and is_channels_last(features):
            return self._add_in_chunks(key, value, features, feature_pos)
        without_maps = self.training and _outweigh_features(key, features)
        take = self._take_without_maps if without_maps else self._take
        return features + self.drop_path(self.dropout(take(key, value, features, feature_pos)))

    def _take(
        self, key: Tensor, value: Tensor, features: Tensor, feature_pos: Tensor | None
    ) -> Tensor:
        """Attention, from keys (N, heads, M, C / heads) and values to the update (N, C, H, W)."""
        query = features if feature_pos is None else features + feature_pos
        query = _factor(query, self.num_heads)  # (N, heads, C / heads, HW)
        if torch.compiler.is_exporting():  # the same, with the tokens of a pixel side by side
            attention = (query.transpose(2, 3) @ key.transpose(2, 3)).softmax(dim=3)
            return (value @ attention.transpose(2, 3)).reshape(features.shape)
        attention = self.attention(key @ query).to(value.dtype)  # (N, heads, M, HW)
        return (value @ attention).reshape(features.shape)

    def _take_without_maps(
        self, key: Tensor, value: Tensor, features: Tensor, feature_pos: Tensor | None
    ) -> Tensor:
        """As :meth:`_take`, by PyTorch's attention, which remembers no map."""
        query = features if feature_pos is None else features + feature_pos
        query = query.flatten(2).transpose(1, 2).to(value.dtype).contiguous()  # (N, HW, C)
        query = query.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        update = F.scaled_dot_product_attention(query, key, value.transpose(2, 3), scale=1.0)
        return update.transpose(2, 3).flatten(1, 2).unflatten(2, features.shape[2:])

    def _add_in_chunks(
        self, key: Tensor, value: Tensor, features: Tensor, feature_pos: Tensor | None
    ) -> Tensor:
        """``features + self._take(...)``, a few pixels at a time."""
        query = features if feature_pos is None else features + feature_pos
        result = torch.empty_like(features)
        maps = [_split_heads(one, self.num_heads) for one in (query, features, result)]
        count = pixels_at_once(key.shape[1] * key.shape[2])
        for part, *parts in zip(*(one.split(count, dim=3) for one in maps), strict=True):
            attention = self.attention(key @ part).to(value.dtype)
            for tensors in zip(*parts, value, attention, strict=True):
                before, out, *factors = tensors  # of one image: (heads, C / heads, pixels)
                torch.baddbmm(before, *factors, out=out)
        return result


def _in_pieces(*tensors: Tensor) -> bool:
    """Whether attention is computed in pieces that stay in the cache: inference on a CPU."""
    is_eager = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
    is_plain = not torch.is_autocast_enabled('cpu') and len({one.dtype for one in tensors}) == 1
    return is_eager and is_plain and all(one.is_cpu for one in tensors)


def _outweigh_features(tokens: Tensor, features: Tensor) -> bool:
    """Whether the maps of attention to tokens (N, heads, M, d) outweigh the features."""
    return tokens.shape[1] * tokens.shape[2] > features.shape[1]


def _with_prior(query: Tensor, key: Tensor, coefficients: Tensor, powers: Tensor) -> Tensor:
    """``query @ key + coefficients @ powers`` as one product: (N, heads, M, HW), float32.

    The powers' channels follow those of the keys. float16 is too coarse for squares of places.
    """
    powers = powers[:, None].expand(*key.shape[:2], -1, -1)
    with torch.autocast(key.device.type, enabled=False):
        query = torch.cat([query.float(), coefficients], dim=3)
        return query @ torch.cat([key.float(), powers], dim=2)


def without_traces(shares: Tensor) -> Tensor:
    """Shares of a softmax below 1e-12 as exact zeros (our decision).

    A prior leaves far pixels shares below 1e-38, and many CPUs are far slower with such numbers
    (docs/deployment.md).

    Args:
        shares: Of any shape, each in [0, 1].

    Returns:
        The same, shaped as they came.
    """
    return F.threshold(shares, 1e-12, 0.0)


def _split_heads(features: Tensor, num_heads: int) -> Tensor:
    """(N, C, H, W) to (N, heads, C / heads, HW), without a copy where the map is contiguous."""
    return features.flatten(2).unflatten(1, (num_heads, -1))


def _factor(features: Tensor, num_heads: int) -> Tensor:
    """The same, laid out so that a product over a batch need not copy the heads first."""
    maps = _split_heads(features, num_heads)
    if not is_channels_last(features) or len(maps) == 1:
        return maps
    return maps.transpose(2, 3).contiguous().transpose(2, 3)


def token_assignment(logits: Tensor, stride: int) -> Tensor:
    """Share of every token in every pixel of a block's output (paper, eq. 3).

    The logits are averaged over the heads, brought to the output's size by adaptive average pooling
    where the block has stride 2, and only then normalised over the tokens (released model).

    Args:
        logits: (N, heads, M, H, W) of :class:`MobileToFormer`.
        stride: 1 or 2.

    Returns:
        (N, M, ceil(H / stride), ceil(W / stride)).
    """
    logits = logits.mean(dim=1)
    if stride == 2:
        logits = fused.halved(logits)
    return exported.softmax_over_tokens(logits)
