"""The authors' ImageNet checkpoints: their keys, conversion both ways, download.

It may import `models` and what lies below.
"""
