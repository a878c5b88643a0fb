"""Corpora as they are read in training: memory-mapped shards, and batches without state.

A corpus is a folder with `manifest.json` and raw token shards (uint8 or uint16) per split; see
docs/corpora.md. The sequences of step s depend on (seed, s) alone, so a run that resumes, a branch,
and a run that repeats see the same text in the same order without a cursor to save.
"""

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.proxy.config import ConfigError, Source

BLOCK = 1024  # sequences in which a mixture keeps its proportions exactly
AHEAD = 8  # steps that a batch is asked of the disk before it is read


class Split:
    """The token shards of one split of a corpus, cut into windows of `seq_len` inputs.

    Windows do not overlap but for the one token that is the last target of one and the first
    input of the next. They do not cross shards.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], split: str, seq_len: int) -> None:
        self.seq_len = seq_len
        dtype = np.dtype(manifest["dtype"])
        listed = [shard for shard in manifest["shards"] if shard["split"] == split]
        self._shards: list[NDArray[Any]] = []
        self._maps: list[mmap.mmap] = []
        for shard in listed:
            array = np.memmap(folder / shard["file"], dtype=dtype, mode="r")
            if len(array) != shard["tokens"]:
                raise ConfigError(
                    f"{folder / shard['file']} holds {len(array)} tokens and its manifest says "
                    f"{shard['tokens']}: build the corpus again"
                )
            self._shards.append(np.asarray(array))  # still mapped; a memmap's slices are slow
            assert isinstance(array.base, mmap.mmap)
            self._maps.append(array.base)
        self.tokens = sum(len(shard) for shard in self._shards)
        windows = [max(0, len(shard) - 1) // seq_len for shard in self._shards]
        self._first = np.concatenate(([0], np.cumsum(windows))).astype(np.int64)
        self.n_windows = int(self._first[-1])
        if self.n_windows == 0:
            raise ConfigError(
                f"{folder}: the {split} split holds {self.tokens} tokens, less than one window of "
                f"{seq_len} + 1; use a larger corpus or a shorter model.seq_len"
            )

    def window(self, index: int) -> NDArray[np.int64]:
        """`seq_len` + 1 tokens: inputs are all but the last, targets all but the first."""
        shard, start = self._place(index)
        return self._shards[shard][start : start + self.seq_len + 1].astype(np.int64)

    def expect(self, index: int) -> None:
        """Have the system read a window's pages from the disk, if it has not yet; returns at
        once."""
        if not hasattr(mmap, "MADV_WILLNEED"):  # as on Windows
            return
        shard, start = self._place(index)
        size = self._shards[shard].itemsize
        begin = start * size // mmap.PAGESIZE * mmap.PAGESIZE
        end = (start + self.seq_len + 1) * size
        self._maps[shard].madvise(mmap.MADV_WILLNEED, begin, end - begin)

    def _place(self, index: int) -> tuple[int, int]:
        """The shard of a window, and its first token there."""
        shard = int(np.searchsorted(self._first, index, side="right")) - 1
        return shard, (index - int(self._first[shard])) * self.seq_len


class Corpus:
    """One corpus folder, opened for models of context `seq_len`."""

    def __init__(self, source: Source, seq_len: int) -> None:
        self.name, self.folder = source.name, Path(source.path)
        path = self.folder / "manifest.json"
        try:
            self.manifest: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path}: {error}; build the corpus with `scalewright corpus build`"
            ) from error
        self.seq_len = seq_len
        self.digest: str = self.manifest["digest"]
        self.tokenizer: str = self.manifest["tokenizer"]["digest"]
        self.vocab_size: int = self.manifest["tokenizer"]["vocab_size"]

    def split(self, name: str) -> Split:
        return Split(self.folder, self.manifest, name, self.seq_len)

    def token_bytes(self) -> NDArray[np.int64]:
        """Bytes of text that each token id stands for; the document separator stands for none."""
        return np.asarray(self.manifest["tokenizer"]["token_bytes"], dtype=np.int64)


class Batches:
    """`batch(step)`: the sequences of a training step, a pure function of (seed, step).

    Each corpus is read window by window in an order shuffled anew each epoch, so that nothing is
    seen twice before all has been seen. In a mixture every run of BLOCK sequences holds each
    corpus in its exact share (largest remainder), in an order shuffled by (seed, block).
    """

    def __init__(
        self, splits: list[Split], weights: list[float], batch_sequences: int, seed: int
    ) -> None:
        self._splits, self._seed = splits, seed
        self.batch_sequences = batch_sequences
        self._quota = quotas(weights)
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}
        self._block: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self._expected: dict[range, list[tuple[Split, int]]] = {}

    def batch(self, step: int, share: slice = slice(None)) -> NDArray[np.int64]:
        """Token ids (batch_sequences, seq_len + 1) of 1-based `step`, or a share of them."""
        indices = self._indices(step, share)
        windows = self._expected.pop(indices, None) or [self._window(i) for i in indices]
        return np.stack([split.window(index) for split, index in windows])

    def expect(self, step: int, share: slice = slice(None)) -> None:
        """Have a batch to come read from the disk while others are trained; `batch` is the same
        with and without."""
        indices = self._indices(step, share)
        self._expected[indices] = [self._window(i) for i in indices]
        for split, index in self._expected[indices]:
            split.expect(index)

    def unique_tokens(self, steps: int) -> int:
        """Different training tokens that `steps` steps read: no corpus gives more than it has."""
        sequences = steps * self.batch_sequences
        blocks, rest = divmod(sequences, BLOCK)
        which, _ = self._draw(blocks)
        drawn = blocks * self._quota + np.bincount(which[:rest], minlength=len(self._splits))
        return sum(
            min(int(n), split.n_windows) * split.seq_len
            for n, split in zip(drawn, self._splits, strict=True)
        )

    def _indices(self, step: int, share: slice) -> range:
        first = (step - 1) * self.batch_sequences
        return range(first, first + self.batch_sequences)[share]

    def _window(self, index: int) -> tuple[Split, int]:
        """Where the sequence lies."""
        block, place = divmod(index, BLOCK)
        which, rank = self._draw(block)
        corpus = int(which[place])
        split = self._splits[corpus]
        epoch, position = divmod(
            block * int(self._quota[corpus]) + int(rank[place]), split.n_windows
        )
        return split, int(self._order(corpus, epoch)[position])

    def _draw(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each place of a block: its corpus, and how many of that corpus came before."""
        if self._block is None or self._block[0] != block:
            which = np.repeat(np.arange(len(self._quota)), self._quota)
            if len(self._quota) > 1:
                np.random.default_rng([self._seed, block]).shuffle(which)
            rank = np.zeros(BLOCK, dtype=np.int64)
            for corpus, quota in enumerate(self._quota):
                rank[which == corpus] = np.arange(quota)
            self._block = (block, which, rank)
        return self._block[1], self._block[2]

    def _order(self, corpus: int, epoch: int) -> NDArray[np.int64]:
        held = self._orders.get(corpus)
        if held is None or held[0] != epoch:
            rng = np.random.default_rng([self._seed, 1 + corpus, epoch])
            held = (epoch, rng.permutation(self._splits[corpus].n_windows))
            self._orders[corpus] = held
        return held[1]


def quotas(weights: list[float]) -> NDArray[np.int64]:
    """Sequences of each corpus in a block of BLOCK, by largest remainder; each gets at least 1."""
    exact = np.asarray(weights, dtype=float) / math.fsum(weights) * BLOCK
    counts = np.floor(exact).astype(np.int64)
    for corpus in np.argsort(-(exact - counts), kind="stable")[: BLOCK - int(counts.sum())]:
        counts[corpus] += 1
    while (counts == 0).any():
        counts[np.argmin(counts)] += 1
        counts[np.argmax(counts)] -= 1
    return counts


@dataclass(frozen=True)
class Validation:
    """Fixed windows of one validation set: the same for every run, seed and size.

    ids is (windows, seq_len + 1); `tokens` counts targets, `bytes` the text they stand for.
    """

    name: str
    ids: Tensor
    tokens: int
    bytes: int

    @staticmethod
    def load(source: Source, seq_len: int, tokens: int) -> "Validation":
        """About `tokens` targets, in windows spread evenly over the validation split."""
        corpus = Corpus(source, seq_len)
        split = corpus.split("validation")
        n = min(split.n_windows, max(1, tokens // seq_len))
        ids = np.stack([split.window(i * split.n_windows // n) for i in range(n)])
        targets = ids[:, 1:]
        return Validation(
            name=source.name,
            ids=torch.from_numpy(ids),
            tokens=targets.size,
            bytes=int(corpus.token_bytes()[targets].sum()),
        )
