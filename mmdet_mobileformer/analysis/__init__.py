"""Cost and speed of models, peers from mmdet, the report, and the pictures of a training.

The top floor of the package: it may import every other room, and none imports it.
"""
