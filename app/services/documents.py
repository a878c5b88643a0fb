"""The texts that a machine has: files, folders, and installed packages -> documents."""

import ast
import hashlib
import inspect
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

# Larger files are mostly generated tables and data, not prose or code that somebody wrote (guess).
LARGEST_DOCUMENT_BYTES = 200_000
SMALLEST_DOCUMENT_BYTES = 64
DOCUMENTATION_SUFFIXES = (".md", ".rst", ".txt")


class CorpusError(ValueError):
    """A corpus cannot be built or read; the message says why and what to do."""


@dataclass(frozen=True)
class Document:
    """One text and where it came from; `text` is UTF-8 without NUL bytes."""

    origin: str
    text: bytes


def files_of(source: str | Path, suffixes: tuple[str, ...] | None = None) -> list[Path]:
    """The files of a file, a folder (without hidden folders), or an installed package."""
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        found: list[Path] = []
        nested = path.name != "site-packages"
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(
                each
                for each in folders
                if not each.startswith(".")
                and each not in ("__pycache__", "node_modules")
                and not (nested and each in ("site-packages", "dist-packages"))
            )
            found += [
                Path(folder, each)
                for each in sorted(names)
                if suffixes is None or each.lower().endswith(suffixes)
            ]
        return found
    try:
        distribution = metadata.distribution(str(source))
    except (metadata.PackageNotFoundError, ValueError) as error:
        raise CorpusError(f"{source!s} is no file, no folder and no installed package") from error
    listed = [Path(str(distribution.locate_file(file))) for file in distribution.files or []]
    return [f for f in listed if f.is_file() and (not suffixes or f.suffix.lower() in suffixes)]


def shuffled(files: Iterable[Path]) -> list[Path]:
    """By the hash of the path's tail: a fixed order in which the first part is a fair sample."""
    return sorted(files, key=lambda file: hash_of("/".join(file.parts[-4:])))


def hash_of(origin: str) -> str:
    """An order that has nothing to do with where a text lies."""
    return hashlib.sha256(origin.encode()).hexdigest()


def read_text(file: Path) -> Document | None:
    """The file as a document; None if it is no text, or too small or too large to be one."""
    try:
        if not SMALLEST_DOCUMENT_BYTES <= file.stat().st_size <= LARGEST_DOCUMENT_BYTES:
            return None
        text = file.read_bytes().replace(b"\r\n", b"\n")
        text.decode()
    except (OSError, UnicodeDecodeError):
        return None
    return None if b"\0" in text else Document(str(file), text)


def split_module(file: Path) -> tuple[Document, Document] | None:
    """A Python module as (its code without docstrings, its docstrings); None if it has no code."""
    document = read_text(file)
    if document is None:
        return None
    try:
        tree = ast.parse(document.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    lines = document.text.splitlines(keepends=True)
    docstrings: list[str] = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)):
            continue
        if not isinstance(first.value.value, str):
            continue
        docstrings.append(inspect.cleandoc(first.value.value))
        last = first.end_lineno or first.lineno
        head = lines[first.lineno - 1][: first.col_offset]
        if head.strip():  # `def f(): "docstring"` on one line: leave it
            continue
        for number in range(first.lineno - 1, min(last, len(lines))):
            lines[number] = b""
    code = b"".join(lines)
    if len(code) < SMALLEST_DOCUMENT_BYTES:
        return None
    prose = "\n\n".join(text for text in docstrings if len(text) > 40)
    return (
        Document(document.origin, code),
        Document(f"{document.origin} docstrings", prose.encode(errors="ignore")),
    )


def readmes() -> Iterator[Document]:
    """The readme of every installed package, as its metadata carries it."""
    for distribution in metadata.distributions():
        text = distribution.metadata.get_payload()  # type: ignore[attr-defined]
        if isinstance(text, str) and len(text) > SMALLEST_DOCUMENT_BYTES:
            yield Document(f"{distribution.name} readme", text.encode(errors="ignore"))


def installed_packages() -> list[str]:
    """`name==version` of every installed package, sorted."""
    return sorted({f"{d.name}=={d.version}" for d in metadata.distributions() if d.name})
