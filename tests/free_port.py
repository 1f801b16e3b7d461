"""A network port that nobody uses, so that tests at the same time do not meet."""

import socket


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])
