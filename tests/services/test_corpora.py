"""Corpora: each text once, on one side for ever, and every byte accounted for."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from app.services import corpora
from app.services.documents import CorpusError, Document, split_module

PROSE = "A scaling law is worth what its runs are worth, and no more than that; line {}.\n"


def folder_of_texts(folder: Path, n: int = 60) -> Path:
    (folder / "deep").mkdir(parents=True)
    for i in range(n):
        (folder / ("deep" if i % 2 else ".") / f"t{i}.txt").write_text(PROSE.format(i) * 3)
    return folder


def documents_of(folder: Path, split: str) -> list[bytes]:
    """Read back from the shards: what is between separators."""
    data = b"".join(p.read_bytes() for p in sorted(folder.glob(f"{split}-*.bin")))
    assert data.endswith(b"\0")
    return data[:-1].split(b"\0")


def test_every_text_is_stored_once_on_the_side_of_its_hash(tmp_path: Path) -> None:
    source = folder_of_texts(tmp_path / "texts")
    (source / "copy.md").write_text(PROSE.format(7) * 3)
    (source / "copy2.md").write_text(PROSE.format(7) * 3)
    (source / "image.png").write_bytes(b"\x89PNG\0\xff" * 50)
    (source / "tiny.txt").write_text("too small")
    manifest = corpora.build("prose", [source], tmp_path / "c", validation_fraction=0.3)

    texts = {(PROSE.format(i) * 3).encode() for i in range(60)}
    stored = {s: documents_of(tmp_path / "c" / "prose", s) for s in ("train", "validation")}
    assert sorted(stored["train"] + stored["validation"]) == sorted(texts)
    for split, documents in stored.items():
        for text in documents:
            share = int(hashlib.sha256(text).hexdigest()[:16], 16) / 2**64
            assert split == ("validation" if share < 0.3 else "train")
        assert manifest["documents"][split] == len(documents)
        assert manifest["bytes"][split] == sum(map(len, documents))
        assert manifest["tokens"][split] == sum(map(len, documents)) + len(documents)
    assert manifest["documents"]["duplicates"] == 2


def test_a_text_keeps_its_side_whatever_else_there_is(tmp_path: Path) -> None:
    small = folder_of_texts(tmp_path / "small", 30)
    large = folder_of_texts(tmp_path / "large", 90)
    for name, source in (("small", small), ("large", large)):
        corpora.build(name, [source], tmp_path / "c", validation_fraction=0.3)
    train = set(documents_of(tmp_path / "c" / "large", "train"))
    assert not train & set(documents_of(tmp_path / "c" / "small", "validation"))


def test_built_twice_the_digest_is_the_same_and_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    source = folder_of_texts(tmp_path / "texts")
    one = corpora.build("one", [source], tmp_path / "a")
    two = corpora.build("one", [source], tmp_path / "b")
    assert one["digest"] == two["digest"]
    assert [c["name"] for c in corpora.list_corpora(tmp_path / "a")] == ["one"]
    corpora.verify(tmp_path / "a" / "one")
    shard = tmp_path / "a" / "one" / "train-00000.bin"
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    with pytest.raises(CorpusError, match=r"train-00000\.bin is not what was built"):
        corpora.verify(tmp_path / "a" / "one")
    (source / "deep" / "new.txt").write_text(PROSE.format("new") * 3)
    assert corpora.build("one", [source], tmp_path / "a")["digest"] != one["digest"]


def test_a_module_is_split_into_code_and_docstrings(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    file.write_text(
        '"""What this module is for, at some length, so that it counts."""\n'
        "import os  # a comment stays\n\n"
        "def f(x):\n"
        '    """Give x back; é is two bytes, and columns are counted in bytes.\n\n'
        "    Indented.\n"
        '    """\n'
        "    return x\n\n"
        'def g(): "on one line"\n\n'
        'value = """not a docstring"""\n'
    )
    split = split_module(file)
    assert split is not None
    code, prose = (document.text.decode() for document in split)
    assert code == (
        "import os  # a comment stays\n\ndef f(x):\n    return x\n\n"
        'def g(): "on one line"\n\nvalue = """not a docstring"""\n'
    )
    assert prose == (
        "What this module is for, at some length, so that it counts.\n\n"
        "Give x back; é is two bytes, and columns are counted in bytes.\n\nIndented."
    )


@pytest.mark.skipif(not importlib.util.find_spec("tokenizers"), reason="needs tokenizers")
def test_a_bpe_accounts_for_every_byte(tmp_path: Path) -> None:
    source = folder_of_texts(tmp_path / "texts")
    (source / "accents.txt").write_text("Ünïcödé — 文字 — and emoji 🙂, " * 10)
    manifest = corpora.build("bpe", [source], tmp_path / "c", tokenizer="bpe:300")
    folder = tmp_path / "c" / "bpe"
    import json

    from tokenizers import Tokenizer as Bpe

    table = np.array(json.loads((folder / "manifest.json").read_text())["tokenizer"]["token_bytes"])
    bpe = Bpe.from_file(str(folder / "tokenizer.json"))
    total = 0
    for split in ("train", "validation"):
        ids = np.fromfile(folder / f"{split}-00000.bin", dtype=np.uint16)
        assert len(ids) == manifest["tokens"][split]
        assert table[ids].sum() == manifest["bytes"][split]
        for document in np.split(ids, np.flatnonzero(ids == 0) + 1)[:-1]:
            text = bpe.decode(document[:-1].tolist())
            assert len(text.encode()) == table[document].sum()
            total += len(text.encode())
    assert total == sum(manifest["bytes"].values())
    assert sum(manifest["tokens"].values()) < 0.7 * total  # it compresses


def test_an_installed_package_is_a_source(tmp_path: Path) -> None:
    manifest = corpora.build("numpy", ["numpy"], tmp_path, max_bytes=1_500_000)
    assert 1_500_000 <= sum(manifest["bytes"].values()) <= 1_700_000


def test_what_cannot_be_built_is_said(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no file, no folder and no installed package"):
        corpora.build("x", ["surely-not-installed"], tmp_path)
    (tmp_path / "one.txt").write_text(PROSE * 3)
    with pytest.raises(CorpusError, match="leave none for validation"):
        corpora.build("x", [tmp_path / "one.txt"], tmp_path / "c", validation_fraction=1e-9)
    with pytest.raises(CorpusError, match="cannot name a corpus"):
        corpora.write_corpus("../x", [Document("a", b"b" * 100)], tmp_path, sources=[])
    with pytest.raises(CorpusError, match="between 300 and 65536"):
        corpora.build("x", [folder_of_texts(tmp_path / "t")], tmp_path, tokenizer="bpe:99")
    with pytest.raises(CorpusError, match="scalewright corpus build"):
        corpora.describe(tmp_path / "nothing")
