"""The reference pages: every command, every route, each from its own description."""

from collections.abc import Iterator
from enum import Enum
from typing import Any

import typer.main

from app.cli_docs import MARK

METHODS = ("get", "post", "put", "patch", "delete")


def reference_pages() -> dict[str, str]:
    """{file name: text}."""
    return {
        "command-line.md": command_line(),
        "rest.md": rest(),
    }


def commands(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(whole name, command) of every command below a group, in the order of the help."""
    for key, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {key}")
        else:
            yield f"{name} {key}", command


def command_line() -> str:
    """One section a command: what it does, its arguments and options."""
    from app.cli import app

    lines = [
        "# Command line",
        "",
        MARK,
        "",
        "Exit codes: 0 done; 1 the answer is a refusal (the remedy is on stderr, and with `--json`"
        " in the document); 2 wrong usage. With `--json` a command prints one JSON document on"
        " stdout; progress and warnings go to stderr.",
        "",
    ]
    for name, command in commands(typer.main.get_command(app), "scalewright"):
        lines += [f"## `{name}`", "", _flowing(command.help or ""), ""]
        rows = [_parameter(one) for one in command.params if one.name != "help"]
        if rows:
            lines += ["| | |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _parameter(one: Any) -> str:
    about = _flowing(getattr(one, "help", None) or "")
    if one.param_type_name == "argument":
        label = one.metavar or (one.name or "").upper()
    else:
        label = ", ".join(one.opts)
        kind = getattr(getattr(one, "type_descriptor", None), "annotation", None)
        if isinstance(kind, type) and issubclass(kind, Enum):
            about += " One of " + ", ".join(f"`{choice.value}`" for choice in kind) + "."
        default = getattr(one.default, "value", one.default)
        if default not in (None, False, ()) and not callable(default):
            about += f" Default: {default}."
    return f"| `{_cell(label)}` | {_cell(about.strip())} |"


def rest() -> str:
    """One row a route; the whole document is at /docs and from `scalewright openapi`."""
    from app.main import create_app
    from app.settings import Settings

    document = create_app(Settings(database_url=None)).openapi()
    lines = [
        "# REST",
        "",
        MARK,
        "",
        "The server explains itself: `/docs` has every body with an example that runs, and works"
        " offline; `scalewright openapi` prints the document without a server.",
        "",
        "- Errors are `application/problem+json` (RFC 9457) with a `hint` that says what to do.",
        "- `Idempotency-Key` on every POST that creates: the same key gives the same answer.",
        "- Lists are paged by `limit` and `cursor`; `next_cursor` of one page asks for the next.",
        "",
        "| | | |",
        "|---|---|---|",
    ]
    for path, methods in sorted(document["paths"].items()):
        for method in METHODS:
            if method in methods:
                about = methods[method].get("summary", "")
                lines.append(f"| `{method.upper()}` | `{path}` | {about} |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _flowing(text: str) -> str:
    return " ".join(text.replace("\f", " ").split())
