"""Cost and speed of models: MACs and parameters, time, memory, peers from mmdet, the report.

The top floor of the package: it may import every other room, and none imports it.
"""
