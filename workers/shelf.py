"""Which of an attempt's resume checkpoints stay: the newest, and the newest that is recorded.

A worker that dies takes with it what it has not yet recorded, and its successor goes on from what
is. So that one stays however many were written since: the database may have been away for hours.
"""

import json
import threading
from collections.abc import Callable, Iterable
from typing import Any

KEEP = 2  # of a run whose configuration does not say


class Shelf:
    """`written` and `recorded` are called by two threads; only the first of them removes files."""

    def __init__(self, remove: Callable[[str], None], keep: int = KEEP) -> None:
        self._remove, self._keep = remove, max(1, keep)
        self._lock = threading.Lock()
        self._left: list[str] = []  # by age
        self._recorded: str | None = None

    def written(self, line: bytes) -> None:
        """A line of the trainer's was heard; if it names a resume checkpoint, older ones may go."""
        path = resume_path(line)
        if path is None:
            return
        with self._lock:
            self._left = [each for each in self._left if each != path] + [path]
            go_on_from = self._recorded or self._left[0]  # the oldest will be recorded first
            stay = {go_on_from, *self._left[-self._keep :]}
            gone = [each for each in self._left if each not in stay]
            self._left = [each for each in self._left if each in stay]
        for each in gone:
            self._remove(each)

    def recorded(self, lines: Iterable[bytes]) -> None:
        """These lines are stored for good."""
        for path in map(resume_path, lines):
            with self._lock:
                if path in self._left:
                    self._recorded = path


def resume_path(line: bytes) -> str | None:
    """Where the resume checkpoint lies that this line tells of; None if it tells of none."""
    if b'"checkpoint"' not in line:
        return None
    try:
        said: Any = json.loads(line)
        return str(said["path"]) if (said["event"], said["kind"]) == _RESUME else None
    except (ValueError, KeyError, TypeError):
        return None


_RESUME = ("checkpoint", "resume")
