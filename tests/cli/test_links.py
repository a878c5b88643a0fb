"""`link` and `task` on plain files, as people call them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from app import cli_links
from fitting import Fit
from fitting.loss_to_loss import METHODS
from fitting.loss_to_loss.pairs import HOW
from fitting.loss_to_loss.resample import BY
from fitting.tasks import CURVES
from tests.fitting.loss_to_loss.truth import TRUE, loss, simulated

from .conftest import Run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """web.csv, code.csv, maths.csv of one made-up world, and task.csv."""
    folder = tmp_path_factory.mktemp("links")
    for name, runs in simulated().items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            write = csv.writer(file)
            write.writerow(["N", "D", "loss", "data"])
            columns = (runs.inputs["N"], runs.inputs["D"], runs.loss)
            write.writerows([*map(float, row), name] for row in zip(*columns, strict=True))
    with (folder / "task.csv").open("w", newline="") as file:
        write = csv.writer(file)
        write.writerow(["loss", "accuracy"])
        for L in simulated()["code"].loss:
            write.writerow([float(L), 0.25 + 0.6 / (1 + np.exp(5 * (L - 1.3)))])
    return folder


@pytest.fixture
def link(run: Run, files: Path, tmp_path: Path) -> Path:
    out = tmp_path / "link.json"
    done = run("link", "fit", files / "web.csv", files / "code.csv", "--out", out, "--draws", 60)
    assert done.code == 0, done.err
    return out


def test_the_choices_are_the_librarys() -> None:
    assert [m.value for m in cli_links.Method] == list(METHODS)
    assert [h.value for h in cli_links.How] == list(HOW)
    assert [r.value for r in cli_links.Resample] == list(BY)
    assert {f.value for f in cli_links.Form} == {"auto", *CURVES}


@pytest.mark.parametrize("method", METHODS)
def test_fit_finds_the_link(run: Run, files: Path, method: str) -> None:
    known = TRUE["code"]["kappa"], TRUE["code"]["K"], TRUE["web"]["E"], TRUE["code"]["E"]
    floors = ("--E0", known[2], "--E1", known[3])
    done = run("link", "fit", files / "web.csv", files / "code.csv", "--kind", "train_train",
               "--method", method, *floors, "--draws", 20, "--json")  # fmt: skip
    found = done.document
    assert done.code == 0 and "draws" not in found
    assert {"kappa", "K", "E0", "E1", "intervals", "r2", "n_pairs", "warnings"} <= found.keys()
    assert (found["E0"], found["E1"]) == pytest.approx(known[2:], rel=1e-9)
    assert found["kappa"] == pytest.approx(known[0], abs=0.03)
    assert found["K"] == pytest.approx(known[1], abs=0.02)
    assert found["n_pairs"] == 49


def test_predict_says_whether_the_source_was_measured(run: Run, link: Path) -> None:
    measured = run("link", "predict", link, "--source-loss", 2.2, "--json").document
    predicted = run("link", "predict", link, "--source-loss", 2.2, "--predicted", "--json").document
    assert (measured["source_is"], predicted["source_is"]) == ("measured", "predicted")
    (m,), (p,) = measured["predictions"], predicted["predictions"]
    assert p["lower"] < m["lower"] < m["loss"] < m["upper"] < p["upper"]
    assert set(m["variance"]) == {"E", "link", "source_law", "noise", "drift"}
    assert m["variance"]["source_law"] == 0.0 < p["variance"]["source_law"]


def test_a_law_and_its_link_forecast_a_large_run(
    run: Run, files: Path, link: Path, tmp_path: Path
) -> None:
    fit = tmp_path / "fit.json"
    assert run("fit", "chinchilla", files / "web.csv", "--draws", 60, "--out", fit).code == 0
    point = ("--fit", fit, "--point", "N=3e9,D=5e10")
    (one,) = run("link", "predict", link, *point, "--json").document["predictions"]
    truth = float(loss("code", np.array([3e9]), np.array([5e10]))[0])
    assert one["lower"] <= truth <= one["upper"]
    assert one["loss"] == pytest.approx(truth, rel=0.03)


def test_translate_writes_a_fit(run: Run, files: Path, link: Path, tmp_path: Path) -> None:
    fit, linked, out = (tmp_path / f"{name}.json" for name in ("fit", "own", "out"))
    run("fit", "chinchilla", files / "web.csv", "--draws", 20, "--out", fit)
    refused = run("link", "translate", fit, link, "--out", out, "--json")
    assert refused.code == 1 and "--E0" in refused.document["hint"]
    E = json.loads(fit.read_text())["params"]["E"]
    pair = (files / "web.csv", files / "code.csv")
    run("link", "fit", *pair, "--E0", repr(E), "--draws", 20, "--out", linked)
    done = run("link", "translate", fit, linked, "--out", out, "--json")
    assert done.document["form"] == "closed" and done.document["law"] == "coupled"
    assert Fit.from_dict(json.loads(out.read_text())).params == done.document["params"]
    assert run("allocate", out, "--flops", 1e21, "--json").code == 0
    assert run("link", "translate", fit, link, "--json").document["form"] == "composition"


def test_plan_spreads_and_pays(run: Run, files: Path) -> None:
    done = run(
        "link", "plan", files / "web.csv", "--runs", 3, "--cap-flops", 1e19, "--json"
    ).document
    assert len(done["runs"]) == 3 and done["total_flops"] <= 1e19
    assert done["half_width"] < done["half_width_before"]


def test_task_in_one_and_two_steps(run: Run, files: Path, link: Path, tmp_path: Path) -> None:
    out = tmp_path / "task.json"
    fitted = run("task", "fit", files / "task.csv", "--chance", 0.25, "--draws", 20, "--out", out,
                 "--json").document  # fmt: skip
    assert fitted["form"] == "sigmoid" and fitted["grade"] == "A" and "draws" not in fitted
    (one,) = run("task", "predict", out, "--loss", 1.1, "--json").document["predictions"]
    assert one["accuracy"] == pytest.approx(0.25 + 0.6 / (1 + np.exp(-1)), abs=1e-3)
    two = run("task", "predict", out, "--link", link, "--source-loss", 2.2, "--json").document
    assert two["loss_is"] == "predicted" and two["grade"] == "A"


@pytest.mark.parametrize(("command", "code", "said"), [
    (("link", "fit", "web.csv", "code.csv", "--kind", "sideways"), 1, "no kind of link"),
    (("link", "fit", "web.csv", "few.csv"), 1, "at least 3"),
    (("link", "fit", "web.csv", "code.csv", "--unit", "bits/byte"), 1, "tokens per byte"),
    (("link", "fit", "web.csv", "code.csv", "--also", "nothing"), 2, "NAME=FILE"),
    (("link", "plan", "web.csv", "--cap-flops", "1"), 1, "cheapest"),
    (("task", "fit", "web.csv"), 1, "accuracy"),
    (("task", "fit", "chance.csv", "--chance", "0.25"), 1, "below its threshold"),
])  # fmt: skip
def test_refusals_say_what_to_do(
    run: Run, files: Path, command: tuple[str, ...], code: int, said: str
) -> None:
    lines = (files / "code.csv").read_text().splitlines()
    (files / "few.csv").write_text("\n".join(lines[:3]) + "\n")
    flat = [f"{2 + i / 50},{0.25 + (-1) ** i / 100}" for i in range(40)]
    (files / "chance.csv").write_text("\n".join(["loss,accuracy", *flat]) + "\n")
    done = run(*(files / word if word.endswith(".csv") else word for word in command))
    assert done.code == code and said in done.err


def test_a_loss_below_the_floor_is_refused(run: Run, link: Path) -> None:
    done = run("link", "predict", link, "--source-loss", 1.5, "--json")
    assert done.code == 1 and "floor" in done.document["message"]


@pytest.mark.parametrize("words", [
    (), ("--source-loss", "2.2", "--fit", "LINK"), ("--source-loss", "2.2", "--source-lower", "2"),
])  # fmt: skip
def test_wrong_usage(run: Run, link: Path, words: tuple[str, ...]) -> None:
    done = run("link", "predict", link, *(link if word == "LINK" else word for word in words))
    assert done.code == 2


def test_flags_of_tokenizers_and_mixtures(run: Run, files: Path, tmp_path: Path) -> None:
    lines = (files / "code.csv").read_text().splitlines()
    mixed = tmp_path / "mixed.csv"
    mixed.write_text("\n".join([*lines[:20], *(f"{line}-new" for line in lines[20:])]) + "\n")
    done = run("link", "fit", files / "web.csv", mixed, "--mixture-column", "data",
               "--tokenizers", "gpt2,llama", "--draws", 0, "--json")  # fmt: skip
    codes = {w["code"] for w in done.document["warnings"]}
    assert {"tokenizers_differ", "mixture_changed"} <= codes
