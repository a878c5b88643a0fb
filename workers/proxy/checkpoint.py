"""Checkpoints: one safetensors file with every tensor, and what identifies the run in its header.

Written to a temporary name, synced, renamed, and the folder synced: a file that has its final name
is whole, whatever is killed and when.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from workers.proxy.config import ConfigError


@dataclass(frozen=True)
class Written:
    path: Path
    sha256: str
    bytes: int


def checkpoint_path(folder: Path, step: int, kind: str) -> Path:
    return folder / f"step-{step:09d}.{kind}.safetensors"


def write(folder: Path, step: int, kind: str, tensors: dict[str, Tensor], about: Any) -> Written:
    """Store `tensors` and the JSON-able `about` as the checkpoint of `step`. Raises OSError."""
    payload = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={"scalewright": json.dumps({**about, "step": step, "kind": kind})},
    )
    path = checkpoint_path(folder, step, kind)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:  # a full disk: leave it no fuller
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return Written(path, hashlib.sha256(payload).hexdigest(), len(payload))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, and what `write` was told about them. Raises ConfigError if it cannot."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["scalewright"])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except Exception as error:
        raise ConfigError(f"{path} is not a readable checkpoint: {error}") from error


def newest_resume(path: Path) -> Path:
    """`path` itself if it is a file, else the resume checkpoint of the highest step in it."""
    if path.is_file():
        return path
    found = sorted(path.glob("step-*.resume.safetensors"))
    if not found:
        raise ConfigError(f"{path} holds no resume checkpoint")
    return found[-1]


def drop_old(folder: Path, keep: int) -> None:
    """Delete resume checkpoints but the newest `keep`, and what a killed writer left behind."""
    found = sorted(folder.glob("step-*.resume.safetensors"))
    for path in [*found[: max(0, len(found) - keep)], *folder.glob(".step-*.tmp")]:
        path.unlink(missing_ok=True)


def strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix.`, without it."""
    cut = len(prefix) + 1
    return {name[cut:]: t for name, t in tensors.items() if name.startswith(prefix + ".")}
