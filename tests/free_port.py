"""A network port that nobody uses, so that tests at the same time do not meet."""

import itertools
import os
import socket

# Below the ports that systems hand out by themselves, and another range in each test process.
_WORKER = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))
_PORTS = itertools.count(20000 + 100 * (_WORKER % 100))


def _is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex(('127.0.0.1', port)) != 0


def free_port():
    return str(next(port for port in _PORTS if _is_free(port)))
