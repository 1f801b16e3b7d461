"""Attention as the paper writes it, a head, a query and a key at a time."""

import math

import torch


def attend(queries, keys, values, num_heads):
    """Attention by loops: (Q, C), (K, C), (K, C) to (Q, C)."""
    width = queries.shape[1] // num_heads
    out = torch.zeros(len(queries), values.shape[1], dtype=queries.dtype)
    for head in range(num_heads):
        part = slice(head * width, (head + 1) * width)
        for i, query in enumerate(queries):
            scores = [float(query[part] @ key[part]) / math.sqrt(width) for key in keys]
            exps = [math.exp(score - max(scores)) for score in scores]
            for weight, value in zip(exps, values, strict=True):
                out[i, part] += weight / sum(exps) * value[part]
    return out
