"""Steps that other people measured, as `Measurement`s."""

from fitting.costs import Measurement, Setup, Shape
from tests.fitting import data

# width, layers, heads of the MPT models (llm-foundry, scripts/train/yamls)
MPT = {
    "125m": (768, 12, 12), "350m": (1024, 24, 16), "760m": (1536, 24, 12), "1b": (2048, 24, 16),
    "3b": (2560, 32, 20), "7b": (4096, 32, 32), "13b": (5120, 40, 40), "30b": (7168, 48, 56),
    "70b": (8192, 80, 64),
}  # fmt: skip
GEMSTONE = Shape(1024, 28, 4096, 50304, 8, 2048, n_kv_heads=4, head_dim=128, mlp="geglu")
STEP_TOKENS = 4_194_304  # of a Gemstones step


def gemstones(attention: str = "flash") -> list[Measurement]:
    """22 shapes on MI250X; 8 GPUs (dies) a node."""
    out = []
    for row in data.rows("time/gemstones_step_time.csv"):
        shape = GEMSTONE.resized(int(row["w"]), int(row["L"]))
        assert shape.parameters() == int(row["N"])
        setup = Setup(STEP_TOKENS, 8 * int(row["nodes"]), attention=attention)
        out.append(Measurement(shape, setup, float(row["sps"])))
    return out


def llm_foundry(section: str) -> list[Measurement]:
    """MPT models; the rows whose section starts so. Attention over the future as well: counted so,
    the steps are told better by a third (A100 40 GB: 13.7% against 20.0% by FLOPs alone)."""
    out = []
    for row in data.rows("time/mpt_throughput.csv"):
        if not row["section"].startswith(section):
            continue
        width, layers, heads = MPT[row["Model"]]
        shape = Shape(
            width, layers, 4 * width, 50368, heads, int(row["SeqLen (T)"]), mlp="gelu", tied=True
        )
        tokens, gpus = float(row["GlobalBatchSize (T)"]), int(row["# GPUs"])
        setup = Setup(
            tokens, gpus, int(row["MicroBatchSize"]) * shape.seq_len,
            checkpointing=row["Activation Checkpointing"] == "True", causal=False,
        )  # fmt: skip
        seconds = tokens / float(row["Throughput (T/s/GPU)"]) / gpus
        out.append(Measurement(shape, setup, seconds, group=row["Model"]))
    return out
