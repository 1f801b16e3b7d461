"""Former: the transformer block on the tokens (paper, sec. 3.2)."""

from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn


class TokenSelfAttention(nn.Module):
    """Self attention of the tokens.

    In the backbone the queries and the result are projected, but neither keys nor values: the
    tokens themselves are keys and values (released model). In the end-to-end detector's head these
    are projected as well, which makes it the standard attention (paper).

    Args:
        token_dim: Channels D of a token.
        num_heads: Heads.
        full_projections: Whether keys and values are projected.
    """

    def __init__(self, token_dim: int, num_heads: int = 4, full_projections: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (token_dim // num_heads) ** -0.5
        self.query = nn.Linear(token_dim, token_dim)
        self.key = nn.Linear(token_dim, token_dim) if full_projections else nn.Identity()
        self.value = nn.Linear(token_dim, token_dim) if full_projections else nn.Identity()
        self.proj = nn.Linear(token_dim, token_dim)

    def forward(self, tokens: Tensor, token_pos: Tensor | None = None) -> Tensor:
        """Attend: tokens (N, M, D) to the update (N, M, D).

        ``token_pos`` (N, M, D) is added to the tokens where they make queries and keys.
        """
        placed = tokens if token_pos is None else tokens + token_pos
        query = self._split_heads(self.query(placed) * self.scale)
        key = self._split_heads(self.key(placed))
        value = self._split_heads(self.value(tokens))  # (N, heads, M, D / heads)
        attention = (query @ key.transpose(2, 3)).softmax(dim=-1).to(value.dtype)
        return self.proj((attention @ value).transpose(1, 2).flatten(2))

    def _split_heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class Former(nn.Module):
    """Self attention and FFN on the tokens, each added and then normalised (post-norm; paper).

    Args:
        token_dim: Channels D of a token.
        num_heads: Heads of the self attention (4 in the released model).
        ffn_ratio: Hidden width of the FFN in units of D (2 in the paper).
        full_projections: Whether the attention projects keys and values as well.
        dropout: Dropped share of what each branch adds, and of the FFN's hidden units.
        drop_path: Rate at which a sample skips each of the two branches.
    """

    def __init__(
        self,
        token_dim: int,
        num_heads: int = 4,
        ffn_ratio: int = 2,
        full_projections: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention = TokenSelfAttention(token_dim, num_heads, full_projections)
        self.attention_norm = nn.LayerNorm(token_dim)
        self.ffn = nn.Sequential(
            nn.Linear(token_dim, ffn_ratio * token_dim),
            nn.GELU(),
            nn.Linear(ffn_ratio * token_dim, token_dim),
        )
        self.ffn_norm = nn.LayerNorm(token_dim)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, token_pos: Tensor | None = None) -> Tensor:
        """Update the tokens: (N, M, D) to (N, M, D).

        ``token_pos`` (N, M, D) is added to the tokens where they make queries and keys.
        """
        update = self.dropout(self.attention(tokens, token_pos))
        tokens = self.attention_norm(tokens + self.drop_path(update))
        fc1, activation, fc2 = self.ffn
        update = self.dropout(fc2(self.dropout(activation(fc1(tokens)))))
        return self.ffn_norm(tokens + self.drop_path(update))
