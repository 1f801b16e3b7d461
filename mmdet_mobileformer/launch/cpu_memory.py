"""Memory of the CPU: keep it between layers instead of asking the system anew for every map."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST = 2**31 - 1
_LARGEST_OF_OLD = 2**25  # what older glibc takes as mmap threshold at most (HEAP_MAX_SIZE / 2)


def keep_freed_memory() -> bool:
    """Let malloc keep freed memory for the next map, in large pages.

    By default glibc returns the memory of every large map to the system, which hands it out again
    page by page, each set to zero: for an image of 800×1280 a third of a backbone's time
    (docs/benchmarks.md). Here the process keeps what its largest moment needed, and torch asks for
    large pages, if no tensor was made before. Only on Linux with glibc; where the environment
    already says something (``MALLOC_*``, ``GLIBC_TUNABLES``), it is left alone.

    Returns:
        Whether memory is kept now.
    """
    libc = _glibc()
    tuned = 'glibc.malloc' in os.environ.get('GLIBC_TUNABLES', '')
    if libc is None or tuned or any(name.startswith('MALLOC_') for name in os.environ):
        return False
    if not libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST):
        return False
    thresholds = (_LARGEST, _LARGEST_OF_OLD)
    kept = any(libc.mallopt(_M_MMAP_THRESHOLD, threshold) for threshold in thresholds)
    if kept:
        os.environ.setdefault('THP_MEM_ALLOC_ENABLE', '1')
    return kept


def release_freed_memory() -> None:
    """Return the freed memory that malloc keeps to the system."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith('linux'):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, 'mallopt') and hasattr(libc, 'malloc_trim') else None
