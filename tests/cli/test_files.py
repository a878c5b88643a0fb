"""Commands on plain files, held to the numbers that others found and to the laid-down contract."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fitting
from app.cli_files import ObjectiveKind, compared
from app.cli_options import FlopsConvention, LossUnit, NConvention
from fitting import LAWS
from fitting.objective import KINDS
from fitting.runs import FLOPS_CONVENTIONS, LOSS_UNITS, N_CONVENTIONS

from .conftest import Run

# Besiroglu et al. 2024 (arXiv 2404.10102), refitted by 20,000 starts: see the data's README.
EPOCH = {"E": 1.81722, "A": 477.83, "alpha": 0.34731, "B": 2143.4, "beta": 0.36717}
EPOCH_OBJECTIVE = 0.00101827402


def write(path: Path, header: str, rows: Iterable[Iterable[object]]) -> Path:
    with path.open("w", newline="") as stream:
        stream.write(header + "\n")
        csv.writer(stream).writerows(rows)
    return path


def made_up(count: int = 24) -> list[tuple[float, float, float]]:
    """Points of a known law without noise: L = 1.8 + 400 N^-0.34 + 1500 D^-0.36."""
    points = []
    for place in range(count):
        N = 10 ** (7.5 + 2.5 * (place % 6) / 5)
        D = 10 ** (9.0 + 2.0 * (place // 6) / (count // 6 - 1))
        points.append((N, D, 1.8 + 400 * N**-0.34 + 1500 * D**-0.36))
    return points


@pytest.fixture
def runs_csv(tmp_path: Path) -> Path:
    return write(tmp_path / "runs.csv", "N,D,loss", made_up())


@pytest.fixture(scope="session")
def epoch_csv(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 240 points that Epoch used."""
    source = data / "parametric" / "epoch_chinchilla.csv"
    with source.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["epoch_used"] == "True"]
    assert len(rows) == 240
    return write(
        tmp_path_factory.mktemp("epoch") / "runs.csv",
        "N,D,loss",
        ((row["N"], row["D"], row["loss"]) for row in rows),
    )


def test_laws_lists_every_law_with_its_facts(run: Run) -> None:
    done = run("laws", "--json")
    assert done.code == 0 and done.err == ""
    assert [law["name"] for law in done.document] == list(LAWS)
    for law in done.document:
        assert {"name", "title", "latex", "source", "inputs", "params"} <= set(law)
        assert law["inputs"] and law["params"] and law["source"]


def test_the_global_optimum_on_the_published_figure(run_program: Run, epoch_csv: Path) -> None:
    done = run_program("fit", "chinchilla", epoch_csv, "--json", "--draws", 200)
    assert done.code == 0, done.err
    fitted = done.document
    assert fitted["law"] == "chinchilla" and fitted["status"] == "converged"
    assert fitted["objective"]["value"] == pytest.approx(EPOCH_OBJECTIVE, rel=1e-6)
    assert fitted["objective"]["kind"] == "huber-log"
    assert fitted["objective"]["delta"] == 1e-3
    assert fitted["objective"]["reduction"] == "sum"
    for name, value in EPOCH.items():
        digits = len(str(value).replace(".", "").lstrip("0"))
        assert float(f"{fitted['params'][name]:.{digits}g}") == value
    assert fitted["intervals"]["level"] == 0.9
    for name, (low, high) in {k: v for k, v in fitted["intervals"].items() if k in EPOCH}.items():
        assert low < fitted["params"][name] < high
    assert fitted["n_points"] == 240 and fitted["digest"]
    assert isinstance(fitted["warnings"], list)
    assert fitted["n_convention"] == "total" and fitted["loss_unit"] == "nats/token"
    assert "draws" not in fitted


def test_dropping_the_five_highest_losses_gives_the_same_points(run: Run, data: Path) -> None:
    done = run(
        *("fit", "chinchilla", data / "parametric" / "epoch_chinchilla.csv", "--json"),
        *("--drop-highest", 5, "--draws", 0),
    )
    assert done.code == 0, done.err
    assert done.document["objective"]["value"] == pytest.approx(EPOCH_OBJECTIVE, rel=1e-6)
    assert len(done.document["objective"]["dropped"]) == 5


def test_the_interval_at_95_agrees_with_the_published_bootstrap(run: Run, epoch_csv: Path) -> None:
    done = run("fit", "chinchilla", epoch_csv, "--level", 0.95, "--draws", 1000, "--json")
    published = {"alpha": (0.317, 0.373), "beta": (0.331, 0.415), "E": (1.769, 1.871)}
    for name, ends in published.items():
        width = ends[1] - ends[0]
        for end, ours in zip(ends, done.document["intervals"][name], strict=True):
            # Monte-Carlo noise of a 1,000-draw percentile, about 5% of the width; see the paper
            assert ours == pytest.approx(end, abs=0.12 * width)


def test_integers_are_read_as_floats_before_any_product(run: Run, data: Path) -> None:
    """6 N D overflows int64 on 45% of these rows; the compute that is stored must not."""
    source = data / "parametric" / "gadre_overtraining.csv"
    with source.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["train_set"] == "c4_original"]
    assert any(6 * int(row["N"]) * int(row["D"]) > 2**63 for row in rows)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = write(
            Path(folder) / "runs.csv", "N,D,loss", ((r["N"], r["D"], r["loss"]) for r in rows)
        )
        done = run("fit", "chinchilla", file, "--json", "--draws", 0)
    assert done.code == 0, done.err
    largest = max(6.0 * float(row["N"]) * float(row["D"]) for row in rows)
    assert done.document["data"]["compute"][1] == pytest.approx(largest)


def test_a_known_truth_comes_back_and_predictions_carry_interval_and_reach(
    run: Run, runs_csv: Path, tmp_path: Path
) -> None:
    out = tmp_path / "fit.json"
    done = run("fit", "chinchilla", runs_csv, "--out", out, "--json", "--draws", 100)
    assert done.code == 0, done.err
    assert done.document["params"]["alpha"] == pytest.approx(0.34, rel=1e-4)
    written = json.loads(out.read_text())
    assert written.pop("draws") and written == done.document

    points = write(tmp_path / "points.csv", "D,N", [(1e12, 1e11), (1e10, 1e9)])
    predicted = run("predict", out, "--at", points, "--level", 0.95, "--json")
    assert predicted.code == 0, predicted.err
    assert predicted.document["level"] == 0.95
    far, near = predicted.document["predictions"]
    assert far["inputs"] == {"N": 1e11, "D": 1e12}
    assert far["lower"] <= far["loss"] <= far["upper"]
    assert far["loss"] == pytest.approx(1.8 + 400 * 1e11**-0.34 + 1500 * 1e12**-0.36, rel=1e-4)
    assert far["reach"]["N"] == pytest.approx(10) and far["reach"]["D"] == pytest.approx(10)
    assert near["reach"]["N"] < 1
    assert far["upper"] - far["lower"] >= near["upper"] - near["lower"]

    said = run("predict", out, "--point", "N=1e11,D=1e12")
    assert said.code == 0 and "interval" in said.out and "reach" in said.out and "10x" in said.out


def test_the_table_shows_the_interval_beside_every_parameter(run: Run, runs_csv: Path) -> None:
    done = run("fit", "chinchilla", runs_csv, "--draws", 50)
    assert done.code == 0
    assert "90% interval" in done.out and "alpha" in done.out and "[" in done.out


def test_unusual_column_names_are_given_by_flags(run: Run, tmp_path: Path) -> None:
    file = write(tmp_path / "runs.csv", "size_b,seen,ppl", made_up())
    refused = run("fit", "chinchilla", file, "--json", "--draws", 0)
    assert refused.code == 1 and "--column" in refused.err
    done = run(
        *("fit", "chinchilla", file, "--draws", 0, "--json"),
        *("--n-column", "size_b", "--column", "D=seen", "--loss-column", "ppl"),
    )
    assert done.code == 0, done.err
    assert done.document["params"]["beta"] == pytest.approx(0.36, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "row", "said", "remedy"),
    [
        ("", None, "empty", "first row"),
        ("N,D\n1e8,1e9\n", None, "loss", "Name it"),
        ("N,D,loss\n1e8,1e9,3\n1e8,x,3\n", 3, "'x'", "number"),
        ("N,D,loss\n1e8,1e9,3\n1e8,1e9,NaN\n", 3, "NaN", "Leave"),
        ("N,D,loss\n1e8,1e9,inf\n", 2, "inf", "Leave"),
        ("N,D,loss\n1e8,1e9,0\n", 2, "'0'", "positive"),
        ("N,D,loss\n1e8,1e9,3\n1e8,1e9,3\n-1e8,1e9,3\n", 4, "-1e8", "positive"),
        ("N,D,loss\n1e8,1e9,3\n1e8,1e9\n", 3, "2 cells", "cell"),
        ("N,D,loss\n7B,1e9,3\n", 2, "7B", "7e9"),
        ("N,D,loss\n1e8,1e9,3\n2e8,1e9,2.9\n", None, "5 parameters", "Add"),
        ("N,D,loss\n" + "1" * (2 << 20) + ",1e9,3\n", 2, "longer", "each line"),
    ],
    ids=[
        *("empty", "no-loss", "text", "nan", "inf", "zero", "negative", "ragged", "suffix"),
        *("few", "long-line"),
    ],
)
def test_a_bad_file_is_refused_with_the_row_and_the_remedy(
    run: Run, tmp_path: Path, text: str, row: int | None, said: str, remedy: str
) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(text)
    out = tmp_path / "fit.json"
    done = run("fit", "chinchilla", file, "--json", "--out", out)
    assert done.code == 1
    assert said.lower() in done.err.lower() and remedy.lower() in done.err.lower()
    assert done.document["status"] == "refused" and done.document["hint"]
    if row is not None:
        assert done.document["row"] == row and str(row) in done.err
    assert not out.exists(), "a refusal writes nothing"
    assert len(done.err) < 2000, "a long line is not repeated"


def test_one_model_size_alone_is_an_answer_that_says_what_to_add(run: Run, tmp_path: Path) -> None:
    points = [
        (1e9, D, 1.8 + 400 * 1e9**-0.34 + 1500 * D**-0.36) for D in (1e9, 2e9, 4e9, 8e9, 2e10, 5e10)
    ]
    done = run("fit", "chinchilla", write(tmp_path / "one.csv", "N,D,loss", points), "--json")
    if done.code == 0:
        assert done.document["status"] == "degenerate" and done.document["warnings"]
    else:
        assert done.code == 1 and done.document["hint"]


def test_constant_loss_is_refused_or_degenerate(run: Run, tmp_path: Path) -> None:
    points = [(N, D, 3.0) for N, D, _ in made_up()]
    done = run("fit", "chinchilla", write(tmp_path / "flat.csv", "N,D,loss", points), "--json")
    assert done.code in (0, 1)
    assert done.document["status"] in ("degenerate", "refused")
    assert done.document["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", "no_such_law", "RUNS"),
        ("fit", "chinchilla", "no_such_file.csv"),
        ("fit", "chinchilla"),
        ("fit", "chinchilla", "RUNS", "--level", "1.5"),
        ("fit", "chinchilla", "RUNS", "--draws", "-1"),
        ("fit", "chinchilla", "RUNS", "--objective", "nonsense"),
        ("fit", "chinchilla", "RUNS", "--column", "nonsense"),
        ("fit", "chinchilla", "RUNS", "--loss-unit", "furlongs"),
        ("predict", "FIT"),
        ("predict", "FIT", "--point", "N=1"),
        ("predict", "FIT", "--point", "N=x,D=1"),
        ("predict", "FIT", "--point", "N=1,N=2,D=1"),
        ("predict", "no_such_fit.json"),
        ("nonsense",),
        ("laws", "--nonsense"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_two(
    run: Run, runs_csv: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    fit_file = tmp_path / "fit.json"
    if "FIT" in arguments:
        assert run("fit", "chinchilla", runs_csv, "--draws", 0, "--out", fit_file).code == 0
    given = {"RUNS": runs_csv, "FIT": fit_file}
    done = run(*(given.get(one, one) for one in arguments))
    assert done.code == 2
    assert done.out == "" and done.err


def test_a_file_that_is_not_a_fit_is_refused(run: Run, tmp_path: Path) -> None:
    for name, text in (
        ("a", "N,D\n1,2\n"),
        ("b", "[1]"),
        ("c", '{"law": "chinchilla"}'),
        ("d", "{}"),
    ):
        file = tmp_path / name
        file.write_text(text)
        done = run("predict", file, "--point", "N=1e9,D=1e10", "--json")
        assert done.code == 1 and done.document["hint"], text


def test_the_same_command_prints_the_same_bytes(run: Run, runs_csv: Path) -> None:
    first, again = (run("fit", "chinchilla", runs_csv, "--json", "--draws", 50) for _ in range(2))
    assert first.out == again.out


def test_badly_tuned_runs_weights_and_rows_left_out(run: Run, tmp_path: Path) -> None:
    """Every third run is 4% above the law: one-sided, the law comes back; all is in the answer."""
    rows = [
        (N, D, loss * (1.04 if i % 3 == 0 else 1.0), 1 + i % 2, "rerun" if i == 5 else "")
        for i, (N, D, loss) in enumerate(made_up(36))
    ]
    file = write(tmp_path / "tuned.csv", "N,D,loss,counts,why", rows)
    flags = ("--draws", 0, "--json", "--column", "weight=counts", "--column", "left_out=why")
    done = run("fit", "chinchilla", file, *flags, "--objective", "one-sided-log", "--asymmetry", 20)
    assert done.code == 0, done.err
    objective = done.document["objective"]
    assert (objective["kind"], objective["asymmetry"]) == ("one-sided-log", 20.0)
    assert objective["dropped"] == [{"row": 5, "reason": "rerun"}]
    assert objective["weights"] == [float(row[3]) for row in rows]
    assert done.document["params"]["alpha"] == pytest.approx(0.34, abs=0.002)
    assert done.document["params"]["E"] == pytest.approx(1.8, rel=0.005)
    less = run("fit", "chinchilla", file, *flags, "--drop-highest", 2).document["objective"]
    assert len(less["dropped"]) == 3
    assert run("fit", "chinchilla", file, "--asymmetry", 0.5).code == 1
    bad = write(tmp_path / "bad.csv", "N,D,loss,counts", [(*row[:3], -1) for row in rows])
    assert "counts" in run("fit", "chinchilla", bad, "--column", "weight=counts").err


def test_a_file_that_says_how_many_tokens_were_fresh(run: Run, tmp_path: Path) -> None:
    """Half of the tokens of each run are a second reading, which the law would count as fresh."""
    rows = [(N, D, D / 2, loss) for N, D, loss in made_up()]
    file = write(tmp_path / "epochs.csv", "N,D,unique,loss", rows)
    silent = run("fit", "chinchilla", file, "--draws", 0, "--json")
    warned = run("fit", "chinchilla", file, "--draws", 0, "--json", "--column", "U=unique")
    assert "repeated_tokens" not in {one["code"] for one in silent.document["warnings"]}
    assert "repeated_tokens" in {one["code"] for one in warned.document["warnings"]}
    assert warned.document["params"] == silent.document["params"]


def test_a_bootstrap_by_budget(run: Run, tmp_path: Path) -> None:
    """Four budgets of six sizes; rows without noise, so that only the words can differ."""
    C = np.repeat(np.geomspace(1e17, 1e20, 4), 6)
    N = np.sqrt(C / 120) * np.tile(np.geomspace(0.3, 3, 6), 4)
    D = C / 6 / N
    rows = zip(N, D, 1.8 + 400 * N**-0.34 + 1500 * D**-0.36, strict=True)
    file = write(tmp_path / "grid.csv", "N,D,loss", rows)
    done = run("fit", "chinchilla", file, "--draws", 20, "--by-budget", "--json")
    assert done.code == 0, done.err
    assert done.document["intervals"]["method"] == "bootstrap over runs of each budget"


def test_the_choices_are_those_of_the_engine() -> None:
    """They are written out a second time, so that --help needs no numpy."""
    assert tuple(one.value for one in ObjectiveKind) == KINDS
    assert tuple(one.value for one in NConvention) == N_CONVENTIONS
    assert tuple(one.value for one in FlopsConvention) == FLOPS_CONVENTIONS
    assert tuple(one.value for one in LossUnit) == LOSS_UNITS


def test_openapi_prints_the_document_without_a_server(run: Run) -> None:
    pytest.importorskip("app.main", exc_type=ImportError)
    done = run("openapi")
    assert done.code == 0, done.err
    assert done.document["openapi"].startswith("3.")
    assert any(path.startswith("/v1/") for path in done.document["paths"])


@pytest.fixture(scope="session")
def epoch_fit(run_program: Run, epoch_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fit") / "fit.json"
    assert run_program("fit", "chinchilla", epoch_csv, "--out", out, "--draws", 1000).code == 0
    return out


def test_the_allocation_of_chinchillas_own_budget(run: Run, epoch_fit: Path) -> None:
    """At 5.76e23 FLOPs the data's README gives N* 74B [51, 113], D/N 17 [7.5, 36] at 95%.

    Hoffmann et al. 2022, eq. 4 with the constants above gives 73.2B.
    """
    ratio = EPOCH["alpha"] * EPOCH["A"] / (EPOCH["beta"] * EPOCH["B"])
    both = EPOCH["alpha"] + EPOCH["beta"]
    closed = ratio ** (1 / both) * (5.76e23 / 6) ** (EPOCH["beta"] / both)
    done = run("allocate", epoch_fit, "--flops", "5.76e23", "--level", 0.95, "--json")
    assert done.code == 0, done.err
    best, around = done.document["optimal"], done.document["intervals"]
    assert best["N"] == pytest.approx(74e9, rel=0.02)
    assert best["N"] == pytest.approx(closed, rel=1e-3)
    assert best["D"] / best["N"] == pytest.approx(17, rel=0.07)
    assert 6 * best["N"] * best["D"] == pytest.approx(5.76e23)
    assert around["N"][0] == pytest.approx(51e9, rel=0.1)
    assert around["N"][1] == pytest.approx(113e9, rel=0.1)
    low, high = done.document["valley"]["N"]
    assert low < best["N"] < high
    assert isinstance(done.document["warnings"], list)
    assert best["lower"] < best["loss"] < best["upper"]


def test_time_and_money_are_budgets_too(run: Run, epoch_fit: Path) -> None:
    machine = ("--peak-flops", "1e15", "--mfu", "0.5")
    hours = run("allocate", epoch_fit, "--gpu-hours", "1000", *machine, "--json")
    flops = 1000 * 3600 * 1e15 * 0.5
    assert hours.document["budget_flops"] == pytest.approx(flops)
    for budget in (
        ("--dollars", "2000", "--dollars-per-gpu-hour", "2"),
        ("--hours", "10", "--gpus", "100"),
    ):
        same = run("allocate", epoch_fit, *budget, *machine, "--json")
        assert same.document["optimal"] == hours.document["optimal"]
    said = run("allocate", epoch_fit, "--flops", "1e24", "--max-tokens", "1e11")
    assert said.code == 0 and "interval" in said.out and "reach" in said.out
    assert "tokens_cap" in said.err


@pytest.mark.parametrize(
    "budget",
    [
        (),
        ("--hours", "5"),
        ("--dollars", "5"),
        ("--flops", "1e24", "--fix", "D"),
    ],
    ids=lambda budget: " ".join(budget) or "none",
)
def test_a_budget_is_given_whole(run: Run, epoch_fit: Path, budget: tuple[str, ...]) -> None:
    done = run("allocate", epoch_fit, *budget)
    assert done.code == 2 and done.out == "" and "--" in done.err


def test_a_budget_that_cannot_be_is_refused(run: Run, epoch_fit: Path) -> None:
    done = run("allocate", epoch_fit, "--flops", "-1", "--json")
    assert done.code == 1 and "-1" in done.err


def test_laws_are_ranked_by_their_forecasts_and_auto_takes_the_first(
    run: Run, tmp_path: Path
) -> None:
    file = write(tmp_path / "runs.csv", "N,D,loss", made_up(12))
    done = run("compare", file, "--json")
    assert done.code == 0, done.err
    ranked = done.document["ranked"]
    assert {"law", "score", "error", "n_params"} <= set(ranked[0])
    assert [one["score"] for one in ranked] == sorted(one["score"] for one in ranked)
    by_name = {one["law"]: one for one in ranked}
    assert by_name["chinchilla"]["error"] < 1e-5 < by_name["kaplan_size"]["error"]
    fitted = run("fit", "auto", file, "--json", "--draws", 0)
    assert fitted.code == 0 and fitted.document["law"] == ranked[0]["law"]
    assert ranked[0]["law"] in fitted.err


@pytest.mark.parametrize("columns", ["N,D,loss", "N,D,loss,flops", "loss,flops"])
def test_laws_of_compute_are_judged_where_the_file_has_no_column_of_it(
    columns: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over REST: C is the FLOPs that the file has, or else 6 N D."""
    names = columns.split(",")
    every = [{"N": N, "D": D, "loss": loss, "flops": 6.5 * N * D} for N, D, loss in made_up(24)]
    file = write(tmp_path / "runs.csv", columns, ([row[n] for n in names] for row in every))
    asked: dict[str, Any] = {}

    def judge(runs: fitting.Runs, laws: list[fitting.Law], **more: object) -> None:
        asked.update(runs=runs.with_compute(), laws={law.name for law in laws})

    monkeypatch.setattr("fitting.compare.compare", judge)
    compared(file, {}, {}, 0, fitting.Objective(), 0)
    assert {"kaplan_compute", "henighan_compute"} <= asked["laws"]
    assert ("broken" in asked["laws"]) == ("N" not in names)  # it bends in compute alone
    assert ("chinchilla" in asked["laws"]) == ("N" in names)
    times = 6.5 if "flops" in names else 6.0
    expected = [times * row["N"] * row["D"] for row in every]
    np.testing.assert_allclose(asked["runs"].inputs["C"], expected, rtol=1e-12)
