"""docs/rest.md is true: its commands are run, in order, on an empty server."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rest.md"


def send(client: TestClient, command: str) -> Any:
    """What curl would do with -H and -d."""
    words = shlex.split(command)[1:]
    url, headers, body = "", {}, None
    while words:
        word = words.pop(0)
        if word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = words.pop(0)
        else:
            url = word.removeprefix("http://127.0.0.1:8421")
    return client.request("GET" if body is None else "POST", url, content=body, headers=headers)


def test_every_command_of_the_page_runs(client: TestClient) -> None:
    text = PAGE.read_text("utf-8")
    commands = [
        line
        for block in re.findall(r"(?ms)^```sh\n(.*?)^```", text)
        for line in block.splitlines()
        if line.startswith("curl ")
    ]
    answers = [send(client, command) for command in commands]
    assert [answer.status_code for answer in answers[:-1]] == (
        [
            *(201, 200, 200, 201, 200, 200, 200, 200, 200, 200, 201, 200),
            *(201, 200, 200, 200, 201, 200),  # links
            *(201, 200),  # tasks
            *(202, 200),
        ]
    ), [answer.text for answer in answers if not answer.is_success]
    (shown,) = re.findall(r"(?ms)^```json\n(.*?)^```", text)
    assert answers[-1].json() == json.loads(shown)
