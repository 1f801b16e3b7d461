"""Comparing the speed of models on one machine: see `tools/benchmark.py`."""
