"""Checkpoints go to the store before they are recorded: what is recorded can be fetched anywhere.

Stands between who watches the trainer and the recorder, as a `Ledger`. Uploads have a thread
of their own, so neither training nor the heartbeat waits for them. A checkpoint that is recorded
later than the points after it is no harm: a run that resumes from it computes them again, alike.
"""

import json
import queue
import threading
from pathlib import Path
from typing import Any

import structlog

from workers.lifecycle import Close
from workers.store import Store, StoreError, is_url
from workers.supervise import Ledger

log = structlog.get_logger()

TRIES = 8
FIRST_WAIT_SECONDS = 0.5  # doubled each time: a minute in all


class Uploader(threading.Thread):
    """Uploads what one attempt writes. `prefix` is the attempt's own folder in the store.

    When the store stays away for a minute the checkpoint is recorded where it lies: then only
    workers of this machine can resume from it, which is better than nobody.
    """

    def __init__(self, ledger: Ledger, store: Store, prefix: str) -> None:
        super().__init__(name=f"upload-{prefix}", daemon=True)
        self._ledger, self._store, self._prefix = ledger, store, prefix
        self._work: queue.SimpleQueue[bytes | Close | None] = queue.SimpleQueue()
        self._abandoned = threading.Event()
        self._refused: OSError | None = None

    def put(self, line: bytes) -> None:
        if self._refused is not None:
            raise self._refused
        if b'"checkpoint"' in line and json.loads(line).get("event") == "checkpoint":
            self._work.put(line)
        else:
            self._ledger.put(line)

    def close(self, close: Close) -> None:
        """The end waits for the uploads before it; `abandon` ends the waiting."""
        self._work.put(close)

    def abandon(self) -> None:
        self._abandoned.set()
        self._work.put(None)
        self._ledger.abandon()

    def run(self) -> None:
        while True:
            work = self._work.get()
            if work is None or self._abandoned.is_set():
                return
            if isinstance(work, Close):
                self._ledger.close(work)
                continue
            line = self._uploaded(json.loads(work))
            if line is None:
                continue
            if self._abandoned.is_set():  # meanwhile the run became another's: nobody would know
                if is_url(line["path"]):
                    discard(self._store, line["path"])
                continue
            try:
                self._ledger.put(json.dumps(line).encode())
            except OSError as error:  # the spool is full: the next line says so
                self._refused = error

    def _uploaded(self, line: dict[str, Any]) -> dict[str, Any] | None:
        """The line with the URL for a path; None if a newer checkpoint took the file's place."""
        local = Path(line["path"])
        wait = FIRST_WAIT_SECONDS
        for _ in range(TRIES):
            try:
                url = self._store.put(local, f"{self._prefix}/{local.name}")
            except FileNotFoundError:
                return None
            except StoreError as error:
                log.warning("checkpoint not uploaded yet", step=line["step"], error=str(error))
                if self._abandoned.wait(wait):
                    return None
                wait *= 2
                continue
            return {**line, "path": url}
        log.error("checkpoint stays on this machine", step=line["step"], path=str(local))
        return line


def discard(store: Store, url: str) -> bool:
    """Remove what nobody needs; what cannot be removed now (False) only takes space."""
    try:
        store.remove(url)
    except OSError as error:
        log.warning("not removed from the store", url=url, error=str(error))
        return False
    return True
