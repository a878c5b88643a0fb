"""How the suite is shared between two processes (`make test`; docs/decisions/0105).

What starts workers, servers and browsers is one lane: it runs in one process, one test after the
other, as it would alone. Everything else is dealt out file by file to whoever is free, so that a
file's tests stay together and in order.
"""

from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("tests/workers/", "tests/acceptance/")


class Lanes(LoadScopeScheduling):
    """Scopes are handed out in the order in which the tests were collected, the long lane first."""

    def _split_scope(self, nodeid: str) -> str:
        return TOGETHER[0] if nodeid.startswith(TOGETHER) else nodeid.split("::", 1)[0]

    def schedule(self) -> None:
        self.config.option.loadscopereorder = False  # by their number of tests, it would be
        super().schedule()
