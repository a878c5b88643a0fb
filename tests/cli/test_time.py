"""Time and budgets on the command line; a real calibration of this machine."""

import json
from pathlib import Path

import pytest

from fitting import get_law
from tests.fitting.test_planning import exact_fit

from .conftest import Run

FAMILY = [
    arg
    for pair in ("head_dim=128", "kv_share=2", "mlp=geglu", "ff_ratio=4", "vocab_size=50304")
    for arg in ("--family", pair)
]
# Gemstones' law as fitted in tests/fitting/laws/test_width_depth.py.
GEMSTONES = {"E": 1.499234, "A_w": 2.873771, "a": 0.206193, "A_l": 0.804384, "b": 0.47912,
             "A_N": 501.8738, "c": 0.371316, "B": 39360.13, "beta": 0.497634}  # fmt: skip


def saved(path: Path, name: str, params: dict[str, float] | None = None) -> Path:
    chosen = params or dict(get_law(name).published.params)
    path.write_text(json.dumps(exact_fit(name, chosen).to_dict()))
    return path


@pytest.fixture
def measured(data: Path, tmp_path: Path) -> Path:
    """The Gemstones' 22 steps as somebody's own CSV would have them."""
    rows = (data / "time" / "gemstones_step_time.csv").read_text().splitlines()
    header = rows[0].split(",")
    out = ["width,depth,gpus,seconds"]
    for row in rows[1:]:
        cell = dict(zip(header, row.split(","), strict=True))
        out.append(f"{cell['w']},{cell['L']},{8 * int(cell['nodes'])},{cell['sps']}")
    file = tmp_path / "steps.csv"
    file.write_text("\n".join(out) + "\n")
    return file


@pytest.fixture
def machine(run: Run, measured: Path, tmp_path: Path) -> Path:
    out = tmp_path / "step_time.json"
    done = run("time", "fit", measured, "--batch-tokens", 4194304, *FAMILY, "--out", out, "--json")
    assert done.code == 0, done.err
    left_out = done.document["left_out"]
    assert left_out["mean_error"] < 0.055  # the public figure is 5.3%
    assert left_out["by_features"]["flops"] == pytest.approx(0.32, abs=0.01)
    return out


def test_a_column_that_is_named_must_be_there(run: Run, measured: Path) -> None:
    asked = ("--batch-tokens", 4194304, *FAMILY, "--column", "batch_tokens=btach")
    done = run("time", "fit", measured, *asked)
    assert done.code == 1 and "no column 'btach' for batch_tokens" in done.err


def test_a_step_is_predicted_or_refused(run: Run, machine: Path) -> None:
    done = run("time", "predict", machine, "--width", 1024, "--depth", 28, "--gpus", 256, "--json")
    assert done.code == 0, done.err
    said = done.document
    assert said["lower"] < 1.394 < said["upper"]  # measured
    assert said["parameters"] == 543_482_880
    assert sum(said["parts"].values()) == pytest.approx(said["gpu_seconds"])
    table = run("time", "predict", machine, "--width", 1024, "--depth", 28)
    assert table.code == 0 and "mostly" in table.out
    far = run("time", "predict", machine, "--width", 16384, "--depth", 28, "--json")
    assert far.code == 1 and "times outside" in far.err and far.document["axis"] == "width"


def test_a_loss_for_gpu_hours(run: Run, machine: Path, tmp_path: Path) -> None:
    """1536x50 was trained: at 1,000 GPU-hours of its measured speed, the law at those tokens."""
    fit = saved(tmp_path / "fit.json", "width_depth", GEMSTONES)
    done = run("time", "predict", machine, "--width", 1536, "--depth", 50, "--gpus", 512,
               "--fit", fit, "--gpu-hours", 1000, "--json")  # fmt: skip
    assert done.code == 0, done.err
    tokens = 1000 * 3600 / (2.5927229 * 512) * 4194304
    assert done.document["run"]["D"] == pytest.approx(tokens, rel=0.1)
    assert done.document["run"]["limited_by"] == "gpu_hours"


def test_the_serial_view_of_a_deadline(run: Run, machine: Path) -> None:
    """Steps x tokens is what the machine does in a day; a larger batch is worth more a step."""
    asked = ("time", "serial", machine, "--width", 1024, "--depth", 28, "--gpus", 256)
    asked += ("--hours", 24, "--batch-tokens", 2e6, "--batch-tokens", 8e6)
    done = run(*asked, "--json")
    assert done.code == 0 and "constants_of_the_paper" in done.err
    small, large = done.document["rows"]
    assert small["steps"] * small["step_seconds"] == pytest.approx(24 * 3600)
    assert large["efficiency"] > small["efficiency"]
    assert small["critical_batch"] == pytest.approx(2e8 / small["loss"] ** (1 / 0.21))
    assert "worth of a step" in run(*asked).out


def test_a_data_sheet_stands_in(run: Run) -> None:
    done = run("time", "predict", "--gpu", "h100-sxm", "--width", 4096, "--depth", 32, "--gpus", 64,
               "--batch-tokens", 4e6, *FAMILY, "--json")  # fmt: skip
    assert done.code == 0 and "not_calibrated" in done.err
    assert done.document["roofline"]["bound_by"] == "compute"
    assert run("time", "predict", "--gpu", "abacus", "--gpus", 1, "--batch-tokens", 1).code == 1
    assert run("time", "predict").code == 2


def test_the_shape_is_allocated_by_the_clock(run: Run, machine: Path, tmp_path: Path) -> None:
    fit = saved(tmp_path / "fit.json", "width_depth", GEMSTONES)
    blind = saved(tmp_path / "blind.json", "chinchilla")
    done = run("allocate", fit, "--step-time", machine, "--dollars", 2500, "--hours", 48,
               "--dollars-per-gpu-hour", 2.5, "--gpus", 32, "--gpus", 64, "--beside", blind,
               "--width", "512:3072:256", "--depth", "4:48:2", "--json")  # fmt: skip
    assert done.code == 0, done.err
    best = done.document["optimal"]
    assert best["dollars"] == pytest.approx(2500) and best["hours"] < 48
    assert best["limited_by"] == "dollars"
    assert 90 < best["width_over_depth"] < 220
    names = [row["more"] for row in done.document["more"]]
    assert names[:2] == ["one GPU-day", "one GPU-week"]
    assert done.document["settings"][0]["law"] == "step_law"
    assert done.document["beside"]["loss_by_the_fit"] > best["loss"]
    table = run("allocate", blind, "--step-time", machine, "--gpu-hours", 1000, "--gpus", 64,
                "--width", "512:3072:256", "--depth", "3:48:3")  # fmt: skip
    assert table.code == 0 and "shape_blind" in table.err
    for words in ("What more buys", "If it were otherwise", "smallest model as good"):
        assert words in table.out


def test_the_configuration_is_written(run: Run, tmp_path: Path) -> None:
    fit = saved(tmp_path / "fit.json", "chinchilla")
    config = tmp_path / "config.json"
    done = run("allocate", fit, "--gpu", "h100-sxm", "--gpus", 8, "--batch-tokens", 5e5,
               "--hours", 24, "--width", "512:2048:256", "--depth", "4:32:4", "--config", config,
               "--corpus", tmp_path, "--json")  # fmt: skip
    assert done.code == 0, done.err
    parse_config = pytest.importorskip("workers.proxy.config").parse_config
    made = parse_config(json.loads(config.read_text()))
    assert made.model.d_model == done.document["optimal"]["width"]
    assert made.schedule.steps == int(done.document["optimal"]["D"] / made.batch_tokens)


def test_two_budgets_and_limits_on_n_and_d(run: Run, tmp_path: Path) -> None:
    fit = saved(tmp_path / "fit.json", "chinchilla")
    both = run("allocate", fit, "--flops", "1e24", "--gpu-hours", 1000, "--json")
    assert both.document["limited_by"] == "gpu_hours"
    alone = run("allocate", fit, "--gpu-hours", 1000, "--json")
    assert both.document["optimal"] == alone.document["optimal"]
    assert {row["more"] for row in alone.document["more"]} >= {"one GPU-day", "10% more"}
    over = run("allocate", fit, "--flops", "1e22", "--tokens-per-parameter", "100:", "--json")
    assert over.document["optimal"]["tokens_per_parameter"] == pytest.approx(100, rel=1e-3)
    quick = run("allocate", fit, "--flops", "1e24", "--decode-speed", 500, "--memory-bandwidth",
                "3.35e12", "--json")  # fmt: skip
    assert quick.document["optimal"]["N"] == pytest.approx(3.35e9, rel=1e-3)
    once = run("allocate", fit, "--flops", "1e24", "--unique-tokens", "1e11", "--json")
    assert once.document["optimal"]["D"] <= 1.0001e11 and "no_repeats" in once.err


@pytest.mark.parametrize(
    "wrong",
    [
        ("--hours", "5", "--gpu", "h100-sxm"),
        ("--flops", "1e20", "--tokens-per-parameter", "many"),
        ("--flops", "1e20", "--decode-speed", "5"),
        ("--gpu-hours", "5", "--gpu", "h100-sxm", "--gpus", "8", "--batch-tokens", "1e6",
         "--width", "a:b"),
        ("--gpu-hours", "5", "--gpu", "h100-sxm", "--family", "colour=red"),
        ("--gpu-hours", "5", "--gpu", "h100-sxm", "--family", "kv_share=0"),
        ("--gpu-hours", "5", "--gpu", "h100-sxm", "--family", "ff_ratio=nan"),
        ("--gpu-hours", "5", "--gpu", "h100-sxm", "--gpus", "8", "--batch-tokens", "1e6",
         "--width", "1:1e12"),
        ("--gpu-hours", "5", "--gpu", "h100-sxm", "--gpus", "8", "--batch-tokens", "1e6",
         "--width", "4096:512:128"),
        ("--gpu-hours", "5", "--mfu", "0"),
        ("--gpu-hours", "5", "--mfu", "40"),
    ],
    ids=lambda wrong: " ".join(wrong[-2:]),
)  # fmt: skip
def test_wrong_usage(run: Run, tmp_path: Path, wrong: tuple[str, ...]) -> None:
    done = run("allocate", saved(tmp_path / "fit.json", "chinchilla"), *wrong)
    assert done.code == 2 and done.out == ""


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (("--max-tokens", "nan"), "max_tokens"),  # was left out in silence
        (("--max-tokens", "0"), "max_tokens"),
        (("--size", "nan"), "size"),
        (("--inference-tokens", "nan"), "inference tokens"),
        (("--decode-speed", "nan", "--memory-bandwidth", "3e12"), "decode_tokens_per_second"),
        (("--fix", "Q=1"), "no input Q"),
        (("--fix", "N=nan"), "N is nan"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, tuple) else one,
)
def test_a_limit_that_is_no_number_is_refused(
    run: Run, tmp_path: Path, limit: tuple[str, ...], said: str
) -> None:
    fit = saved(tmp_path / "fit.json", "chinchilla")
    done = run("allocate", fit, "--flops", "1e22", *limit)
    assert done.code == 1 and said in done.err


@pytest.mark.slow
def test_this_machine_is_calibrated(run_program: Run, tmp_path: Path) -> None:
    """Six sizes by the real trainer, in CPU seconds. What its clock says is no test's to hold:
    `python -m tests.benchmarks.time_and_shape --machine` measures how near the law comes to it."""
    pytest.importorskip("torch")
    out = tmp_path / "step_time.json"
    sizes = ("32x2x1024", "32x6x512", "64x2x1024", "64x4x512", "48x3x1024", "96x2x512")
    done = run_program(
        "calibrate", "--seconds", 0.6, "--out", out, "--json",
        *(arg for size in sizes for arg in ("--size", size)),
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.document["unit"] == "CPU-seconds"
    assert len(done.document["measurements"]) == 6
    assert all(one["seconds"] > 0 for one in done.document["measurements"])
    assert done.document["left_out"]["mean_error"] > 0
    assert "torch" in done.document["hardware"]
