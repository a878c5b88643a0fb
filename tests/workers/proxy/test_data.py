"""Batches without state, mixtures in their exact shares, validation sets that never change."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from workers.proxy.config import ConfigError, Source
from workers.proxy.data import BLOCK, Batches, Corpus, Validation, quotas


def write_corpus(folder: Path, train: np.ndarray, validation: np.ndarray) -> Source:
    folder.mkdir(parents=True)
    shards = []
    for split, ids in (("train", train), ("validation", validation)):
        (folder / f"{split}.bin").write_bytes(ids.tobytes())
        shards.append({"file": f"{split}.bin", "split": split, "tokens": len(ids)})
    tokenizer = {"digest": "t", "vocab_size": 256, "token_bytes": [0] + [1] * 255}
    document = {"digest": folder.name, "dtype": "uint8", "shards": shards, "tokenizer": tokenizer}
    (folder / "manifest.json").write_text(json.dumps(document))
    return Source(folder.name, str(folder))


def test_an_epoch_reads_every_window_once(tmp_path: Path) -> None:
    ids = np.arange(1, 242, dtype=np.uint8)  # 60 windows of 4
    source = write_corpus(tmp_path / "a", ids, ids)
    batches = Batches([Corpus(source, 4).split("train")], [1.0], batch_sequences=6, seed=0)
    rows = np.concatenate([batches.batch(step) for step in range(1, 11)])
    assert sorted(rows[:, 0].tolist()) == list(range(1, 241, 4))
    assert (rows == rows[:, :1] + np.arange(5)).all()  # inputs and their targets, in order
    again = np.concatenate([batches.batch(step) for step in range(11, 21)])
    assert sorted(again[:, 0].tolist()) == sorted(rows[:, 0].tolist())
    assert again[:, 0].tolist() != rows[:, 0].tolist()  # a new epoch, a new order
    assert batches.unique_tokens(5) == 5 * 6 * 4
    assert batches.unique_tokens(50) == 60 * 4


def test_a_batch_depends_on_seed_and_step_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 255, 20_000, dtype=np.uint8)
    sources = [write_corpus(tmp_path / name, ids, ids) for name in "ab"]

    def make(seed: int) -> Batches:
        splits = [Corpus(source, 8).split("train") for source in sources]
        return Batches(splits, [0.7, 0.3], batch_sequences=5, seed=seed)

    one, other = make(3), make(3)
    in_order = [one.batch(step) for step in range(1, 500)]
    for step in (499, 7, 300, 1):
        assert (other.batch(step) == in_order[step - 1]).all()
    assert (make(4).batch(1) != in_order[0]).any()


@pytest.mark.parametrize("ahead", [1, 8])
def test_what_was_expected_is_the_same_batch(tmp_path: Path, ahead: int) -> None:
    """Through several epochs and blocks, with a share, from a step in the middle, and where a
    batch was expected that nobody reads."""
    ids = np.random.default_rng(1).integers(1, 255, 20_000, dtype=np.uint8)
    splits = [Corpus(write_corpus(tmp_path / name, ids, ids), 8).split("train") for name in "ab"]
    one, other = (Batches(splits, [0.7, 0.3], batch_sequences=6, seed=3) for _ in range(2))
    share = slice(1, None, 2)
    for step in range(400, 1500):
        other.expect(step + ahead, share)
        assert (other.batch(step, share) == one.batch(step)[share]).all()
    assert (other.batch(1500) == one.batch(1500)).all()


def test_a_mixture_keeps_its_shares_in_every_block(tmp_path: Path) -> None:
    constant = [np.full(5_000, value, dtype=np.uint8) for value in (1, 2, 3)]
    sources = [write_corpus(tmp_path / f"c{i}", ids, ids) for i, ids in enumerate(constant)]
    splits = [Corpus(source, 4).split("train") for source in sources]
    weights = [5.0, 3.0, 0.1]
    batches = Batches(splits, weights, batch_sequences=64, seed=0)
    for block in range(3):
        steps = range(block * BLOCK // 64 + 1, (block + 1) * BLOCK // 64 + 1)
        first = np.concatenate([batches.batch(step)[:, 0] for step in steps])
        counts = np.bincount(first, minlength=4)[1:]
        exact = np.array(weights) / sum(weights) * BLOCK
        assert np.abs(counts - exact).max() < 1
    assert quotas([1e-9, 1.0]).tolist() == [1, BLOCK - 1]


def test_validation_counts_tokens_and_the_bytes_they_stand_for(tmp_path: Path) -> None:
    # zeros end documents: they are predicted, and they are no text
    ids = np.array([5, 6, 0, 7, 8, 9, 0, 4, 3, 2, 1, 0, 9], dtype=np.uint8)
    source = write_corpus(tmp_path / "v", ids, ids)
    validation = Validation.load(source, seq_len=4, tokens=100)
    assert validation.ids.tolist() == [[5, 6, 0, 7, 8], [8, 9, 0, 4, 3], [3, 2, 1, 0, 9]]
    assert (validation.tokens, validation.bytes) == (12, 9)
    # fewer windows: spread over the whole split, from its start
    assert Validation.load(source, seq_len=4, tokens=8).ids[:, 0].tolist() == [5, 8]


def test_a_corpus_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    ids = np.arange(1, 10, dtype=np.uint8)
    source = write_corpus(tmp_path / "a", ids, ids)
    with pytest.raises(ConfigError, match=r"holds 9 tokens, less than one window of 16 \+ 1"):
        Corpus(source, 16).split("train")
    (tmp_path / "a" / "train.bin").write_bytes(b"abc")
    with pytest.raises(ConfigError, match="build the corpus again"):
        Corpus(source, 4).split("train")
    with pytest.raises(ConfigError, match="scalewright corpus build"):
        Corpus(Source("none", str(tmp_path / "none")), 4)


def test_quotas_sum_to_a_block() -> None:
    for weights in ([1.0], [1, 1, 1], [0.2, 0.3, 0.5], list(range(1, 20))):
        assert quotas(weights).sum() == BLOCK
        assert np.abs(quotas(weights) / BLOCK - np.array(weights) / math.fsum(weights)).max() < (
            1 / BLOCK
        )
