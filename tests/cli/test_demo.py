"""The demo's own processes: a port that is lost, a worker that ends, a server that is busy."""

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from app import demo
from app.cli_output import Refused

# `serve` in short: it asks for the port that it was told, and says who it is.
SERVER = """
import os, tests.cli.test_demo as here
here.HTTPServer(("127.0.0.1", int(os.environ["SCALEWRIGHT_PORT"])), here.Who).serve_forever()
"""
ROOT = Path(__file__).resolve().parents[2]


class Who(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"pid": os.getpid()}).encode())

    def log_message(self, *said: object) -> None:
        pass


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def somebody_else() -> Iterator[int]:
    """The port of a server that answers as ours would."""
    with HTTPServer(("127.0.0.1", 0), Who) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_port_that_is_lost_meanwhile_is_not_taken_for_ours(
    stack: contextlib.ExitStack,
    somebody_else: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free_port = demo.free_port
    # it was free when the demo looked, and is not when the server asks for it
    monkeypatch.setattr(demo, "free_port", lambda wanted: wanted or free_port(0))
    monkeypatch.setattr(demo, "SERVE", ("-c", SERVER))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    client, server = demo.start_server(stack, somebody_else, environment, tmp_path)
    assert client.get("/v1/health") == {"pid": server.popen.pid}
    assert client.url != f"http://127.0.0.1:{somebody_else}"


def test_a_port_that_is_taken_is_not_asked_for(somebody_else: int) -> None:
    assert demo.free_port(somebody_else) != somebody_else


def test_a_server_that_cannot_start_says_why(
    stack: contextlib.ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "server.log").write_text("address already in use, long ago\n")
    monkeypatch.setattr(demo, "SERVE", ("-c", "raise SystemExit('no room on the disk')"))
    with pytest.raises(Refused, match="no room on the disk") as refused:
        demo.start_server(stack, 0, dict(os.environ), tmp_path)
    assert "long ago" not in str(refused.value)


class Waiting:
    """A client of a server whose run never ends."""

    def get(self, path: str) -> dict[str, Any]:
        return {"status": "running", "steps": 9, "step": 1, "parent_step": None, "flops_exact": 9}


def test_a_worker_that_has_ended_is_not_waited_for(
    stack: contextlib.ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = demo.spawn(
        stack, ("-c", "raise SystemExit('killed for memory')"), {}, tmp_path / "worker.log"
    )
    monkeypatch.setattr(demo, "POLL_SECONDS", 0.0)
    with pytest.raises(Refused, match="The worker has ended: killed for memory"):
        demo.watch(Waiting(), Console(quiet=True), "run", [worker], run_id=1)  # type: ignore[arg-type]


def test_a_server_too_busy_to_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(demo.time, "sleep", slept.append)
    answers: list[Exception | str] = [
        Refused("no word"),
        Refused("no database", status=503),
        "here",
    ]

    def find() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert demo.patiently(find, []) == "here" and len(slept) == 2
    # what was answered is not asked again, and silence is not waited for for ever
    answers[:] = [Refused("there is no run 1", status=404), "never asked"]
    with pytest.raises(Refused, match="no run 1"):
        demo.patiently(find, [])
    answers[:] = [Refused("timed out")] * 9
    with pytest.raises(Refused, match="timed out"):
        demo.patiently(find, [])
    assert len(answers) == 9 - 1 - len(demo.BUSY_SECONDS)


def test_its_processes_end_with_it(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        process = demo.spawn(
            stack, ("-c", "import time; time.sleep(600)"), {}, tmp_path / "worker.log"
        )
        assert not process.ended
    assert process.ended
