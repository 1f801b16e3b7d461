"""Exact resume: the checkpoint hook, the loops, SIGTERM, random state, the newest whole checkpoint.

Part of `engine`; it may import the modules of `engine` beside it and what lies below.
"""
