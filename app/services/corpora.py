"""Corpora: from files on this machine to token shards that training reads by memory map.

A corpus is a folder: `manifest.json`, shards of raw token ids (uint8, or uint16 for a BPE), and
`tokenizer.json` for a BPE. Documents are de-duplicated exactly, by the sha256 of their bytes, and
split into training and validation by that same hash: a text is on one side for ever, whatever else
the corpus holds. Built twice from the same files, a corpus has the same digest.
"""

import hashlib
import json
import os
import platform
import shutil
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.services.documents import (
    DOCUMENTATION_SUFFIXES,
    SMALLEST_DOCUMENT_BYTES,
    CorpusError,
    Document,
    files_of,
    hash_of,
    installed_packages,
    read_text,
    readmes,
    shuffled,
    split_module,
)

FORMAT = 1
SHARD_TOKENS = 64_000_000
VALIDATION_FRACTION = 0.05
BPE_SAMPLE_BYTES = 12_000_000

CODE_BYTES = 24_000_000
ENGLISH_BYTES = 12_000_000
LICENCE_NOTE = (
    "Made from files installed on this machine, each under the licence of its own package; "
    "meant for local experiments, not for redistribution."
)


def build(
    name: str,
    sources: Iterable[str | Path],
    corpus_dir: str | Path,
    *,
    tokenizer: str = "bytes",
    max_bytes: int | None = None,
    validation_fraction: float = VALIDATION_FRACTION,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Build corpus `name` under `corpus_dir` from files, folders and names of installed packages.

    tokenizer: "bytes" (256 ids, one a byte), "bpe:SIZE" (trained on this corpus), or the path of
    a `tokenizer.json`. Every file that is UTF-8 text is a document. Returns the manifest. Raises
    CorpusError when nothing can be read.
    """
    sources = list(sources)
    files = sorted(file for source in sources for file in files_of(source))
    documents = (d for d in map(read_text, shuffled(files)) if d is not None)
    return write_corpus(
        name,
        documents,
        Path(corpus_dir),
        sources=[str(source) for source in sources],
        tokenizer=tokenizer,
        max_bytes=max_bytes,
        validation_fraction=validation_fraction,
        progress=progress,
    )


def build_default(
    corpus_dir: str | Path,
    *,
    rebuild: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """The corpora that every machine can make: "code" and "english", by name.

    code: the source of the standard library and of the installed packages, without docstrings.
    english: those docstrings, and the readmes and documentation that the packages and the system
    (/usr/share/doc) carry. What is there already is kept, unless `rebuild`: runs on a corpus
    stay comparable when a package is upgraded.
    """
    corpus_dir = Path(corpus_dir)
    names = ("code", "english")
    if not rebuild and all((corpus_dir / name / "manifest.json").exists() for name in names):
        return {name: describe(corpus_dir / name) for name in names}
    libraries = [Path(sysconfig.get_paths()[key]) for key in ("stdlib", "purelib")]
    modules = [file for folder in libraries for file in files_of(folder, (".py",))]
    code: list[Document] = []
    english: list[Document] = []
    held = 0
    for file in shuffled(modules):
        split = split_module(file)
        if split is not None:
            code.append(split[0])
            english.append(split[1])
            held += len(split[0].text)
        # a little more than asked for: duplicates fall out later
        if held > 1.1 * CODE_BYTES:
            break
    pages = [f for folder in libraries for f in files_of(folder, DOCUMENTATION_SUFFIXES)]
    if Path("/usr/share/doc").is_dir():
        pages += files_of("/usr/share/doc", DOCUMENTATION_SUFFIXES)
    english += [d for d in map(read_text, pages) if d is not None]
    english += readmes()
    english.sort(key=lambda document: hash_of(document.origin))
    common: dict[str, Any] = {
        "sources": [str(folder) for folder in libraries],
        "packages": installed_packages(),
        "progress": progress,
    }
    return {
        "code": write_corpus("code", code, corpus_dir, max_bytes=CODE_BYTES, **common),
        "english": write_corpus("english", english, corpus_dir, max_bytes=ENGLISH_BYTES, **common),
    }


def list_corpora(corpus_dir: str | Path) -> list[dict[str, Any]]:
    """The manifests under `corpus_dir`, by name; without the table of token lengths."""
    found = sorted(Path(corpus_dir).glob("*/manifest.json"))
    return [describe(path.parent) for path in found]


def describe(folder: str | Path) -> dict[str, Any]:
    """The manifest of one corpus, with its folder. Raises CorpusError if there is none."""
    path = Path(folder) / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path}: {error}; run `scalewright corpus build`") from error
    manifest["tokenizer"].pop("token_bytes")
    return {**manifest, "path": str(Path(folder).resolve())}


def verify(folder: str | Path) -> None:
    """Hash the shards again. Raises CorpusError naming the first that differs."""
    for shard in describe(folder)["shards"]:
        found = _sha256((Path(folder) / shard["file"]).read_bytes())
        if found != shard["sha256"]:
            raise CorpusError(f"{folder}/{shard['file']} is not what was built: sha256 {found}")


def write_corpus(
    name: str,
    documents: Iterable[Document],
    corpus_dir: Path,
    *,
    sources: list[str],
    tokenizer: str = "bytes",
    max_bytes: int | None = None,
    validation_fraction: float = VALIDATION_FRACTION,
    packages: list[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Store `documents` as corpus `name`, in their order, up to `max_bytes` of text."""
    if not 0 < validation_fraction < 1:
        raise CorpusError(f"validation_fraction is {validation_fraction}; use one like 0.05")
    if not name or Path(name).name != name or name.startswith("."):
        raise CorpusError(f"{name!r} cannot name a corpus; use letters, digits, - and _")
    seen: set[bytes] = set()
    texts: dict[str, list[bytes]] = {"train": [], "validation": []}
    counts = {"train": 0, "validation": 0, "duplicates": 0}
    held = 0
    for document in documents:
        text = document.text
        if len(text) < SMALLEST_DOCUMENT_BYTES or b"\0" in text:
            continue
        digest = hashlib.sha256(text).digest()
        if digest in seen:
            counts["duplicates"] += 1
            continue
        seen.add(digest)
        split = split_of(digest, validation_fraction)
        texts[split].append(text)
        counts[split] += 1
        held += len(text)
        if max_bytes is not None and held >= max_bytes:
            break
    for split, part in texts.items():
        if not part:
            raise CorpusError(
                f"corpus {name}: {len(seen)} different documents leave none for {split}; "
                "add more files"
            )
    if progress:
        progress(f"{name}: {held / 1e6:.1f} MB in {len(seen)} documents")

    corpus_dir.mkdir(parents=True, exist_ok=True)
    folder, temporary = corpus_dir / name, corpus_dir / f".{name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        encoder = make_tokenizer(tokenizer, texts["train"], temporary)
        shards: list[dict[str, Any]] = []
        for split, part in texts.items():
            shards += _write_shards(temporary, split, part, encoder)
        identity = [encoder.digest, [[s["split"], s["sha256"]] for s in shards]]
        manifest = {
            "format": FORMAT,
            "name": name,
            "digest": _sha256(json.dumps(identity).encode()),
            "dtype": encoder.dtype,
            "documents": counts,
            "tokens": {s: sum(x["tokens"] for x in shards if x["split"] == s) for s in texts},
            "bytes": {s: sum(x["bytes"] for x in shards if x["split"] == s) for s in texts},
            "validation_fraction": validation_fraction,
            "sources": sources,
            "packages": packages or [],
            "python": platform.python_version(),
            "licence_note": LICENCE_NOTE,
            "shards": shards,
            "tokenizer": {
                "kind": encoder.kind,
                "vocab_size": encoder.vocab_size,
                "digest": encoder.digest,
                "separator": 0,
                "token_bytes": encoder.token_bytes,
            },
        }
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return describe(folder)


def split_of(digest: bytes, validation_fraction: float) -> str:
    """The side of a document, from the first eight bytes of its sha256."""
    position = int.from_bytes(digest[:8], "big") / 2**64
    return "validation" if position < validation_fraction else "train"


def _write_shards(
    folder: Path, split: str, texts: list[bytes], encoder: "Tokenizer"
) -> list[dict[str, Any]]:
    """Each document followed by the separator; a new shard past SHARD_TOKENS."""
    shards: list[dict[str, Any]] = []
    batch: list[np.ndarray[Any, Any]] = []
    tokens = text_bytes = 0

    def close() -> None:
        nonlocal batch, tokens, text_bytes
        if not batch:
            return
        payload = np.concatenate(batch).tobytes()
        file = f"{split}-{len(shards):05d}.bin"
        (folder / file).write_bytes(payload)
        shards.append(
            {
                "file": file,
                "split": split,
                "tokens": tokens,
                "bytes": text_bytes,
                "sha256": _sha256(payload),
            }
        )
        batch, tokens, text_bytes = [], 0, 0

    separator = np.zeros(1, dtype=encoder.dtype)
    for text in texts:
        ids = encoder.encode(text)
        batch += [ids, separator]
        tokens += len(ids) + 1
        text_bytes += len(text)
        if tokens >= SHARD_TOKENS:
            close()
    close()
    return shards


@dataclass(frozen=True)
class Tokenizer:
    """Bytes of a document -> ids. Id 0 ends a document and stands for no text."""

    kind: str
    vocab_size: int
    digest: str
    dtype: str
    token_bytes: list[int]
    encode: Callable[[bytes], "np.ndarray[Any, Any]"]


def make_tokenizer(spec: str, texts: list[bytes], folder: Path) -> Tokenizer:
    """ "bytes", "bpe:SIZE" trained on the start of `texts`, or a `tokenizer.json`; see `build`."""
    if spec == "bytes":
        return Tokenizer(
            kind="bytes",
            vocab_size=256,
            digest=_sha256(b"bytes, 0 separates"),
            dtype="uint8",
            token_bytes=[0] + [1] * 255,
            encode=lambda text: np.frombuffer(text, dtype=np.uint8),
        )
    if spec.startswith("bpe:"):
        vocab_size = int(spec.removeprefix("bpe:"))
        if not 300 <= vocab_size <= 65_536:
            raise CorpusError(f"a BPE of {vocab_size} ids: choose between 300 and 65536")
        bpe = _train_bpe(vocab_size, texts)
    else:
        bpe = _load_bpe(spec)
    document = bpe.to_str()
    (folder / "tokenizer.json").write_text(document)
    size = bpe.get_vocab_size()
    # in the byte-level alphabet one character is one byte
    token_bytes = [0] + [len(bpe.id_to_token(i)) for i in range(1, size)]

    def encode(text: bytes) -> "np.ndarray[Any, Any]":
        return np.asarray(bpe.encode(text.decode()).ids, dtype=np.uint16)

    digest = _sha256(document.encode())
    return Tokenizer("bpe", size, digest, "uint16", token_bytes, encode)


def _train_bpe(vocab_size: int, texts: list[bytes]) -> Any:
    from tokenizers import Tokenizer as Bpe  # torch-less machines plan and fit without it
    from tokenizers import decoders, models, pre_tokenizers, trainers

    sample: list[str] = []
    held = 0
    for text in texts:
        sample.append(text.decode())
        held += len(text)
        if held >= BPE_SAMPLE_BYTES:
            break
    bpe = Bpe(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|document|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(sample, trainer)
    return bpe


def _load_bpe(spec: str) -> Any:
    from tokenizers import Tokenizer as Bpe

    try:
        bpe = Bpe.from_file(spec)
    except Exception as error:
        raise CorpusError(f"{spec} is neither bytes, bpe:SIZE nor a tokenizer.json: {error}") from (
            error
        )
    if bpe.id_to_token(0) != "<|document|>" or bpe.get_vocab_size() > 65_536:
        raise CorpusError(f"{spec}: id 0 must be <|document|>, and ids must fit 16 bits")
    return bpe


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
