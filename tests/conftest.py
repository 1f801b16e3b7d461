"""Each test process computes with one thread: the models are tiny, and several run at once."""

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')  # read when torch is imported, here and in children
