"""Ports for servers that tests start, which stay free until the server takes them.

The system gives outgoing connections ports from a range of its own (32768 to 60999 on Linux), so
one of those, free a moment ago, may be anybody's when a server binds it. These lie below it, drawn
at random: only another server that was told the same number could take one.
"""

import random
import socket
from contextlib import ExitStack

LOWEST, HIGHEST = 20_000, 31_999


def free_ports(count: int) -> list[int]:
    """Free on 127.0.0.1, all different."""
    chance = random.SystemRandom()  # tests that seed `random` must not all draw the same
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < count:
            port = chance.randint(LOWEST, HIGHEST)
            one = stack.enter_context(socket.socket())
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
    return ports


def free_port() -> int:
    return free_ports(1)[0]
