"""Train the short runs of short_runs.csv: five tiny models, read after 8 to 64 steps, uncooled.

    PYTHONPATH=. python -m tests.fitting.ours.make_short_runs

Half a megabyte of the standard library's source, the product's own trainer on one CPU thread, about
30 CPU seconds. Made once: floating-point sums differ between machines.
"""

import csv
import json
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from app.services import corpora

HERE = Path(__file__).parent
STEPS = (8, 12, 16, 24, 32, 48, 64)
WIDTHS = ((16, 1), (24, 1), (32, 2), (48, 2), (64, 2))


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = Path(sysconfig.get_paths()["stdlib"])
        source = [library / "asyncio", library / "json"]
        corpora.build("code", source, folder, validation_fraction=0.1)
        data = {"name": "code", "path": str(folder / "code")}
        for width, layers in WIDTHS:
            config = {
                "model": {"d_model": width, "n_layers": layers, "head_dim": 8, "vocab_size": 256,
                          "seq_len": 64},
                "data": {"train": [{**data, "weight": 1.0}], "validation": [data]},
                "optimizer": {"name": "muon", "lr": 6e-3},
                "schedule": {"kind": "constant", "steps": STEPS[-1], "warmup_steps": 4},
                "batch_tokens": 512, "seed": 1, "device": "cpu", "threads": 1,
                "evaluate": {"at_steps": list(STEPS), "tokens": 4096},
                "checkpoint": {"every_steps": 1000, "keep": 1},
            }  # fmt: skip
            path = folder / f"{width}.json"
            path.write_text(json.dumps(config))
            done = subprocess.run(
                [sys.executable, "-m", "workers.proxy.train", path, "--out", folder / str(width)],
                check=True,
                capture_output=True,
                text=True,
            )
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            size = next(x for x in lines if x["event"] == "start")["params"]["total"]
            rows += [
                (f"d{width}", size, x["train_tokens"], x["step"], x["loss"])
                for x in lines
                if x["event"] == "evaluation"
            ]
    with (HERE / "short_runs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("run", "N", "D", "step", "loss"), *rows])


if __name__ == "__main__":
    main()
