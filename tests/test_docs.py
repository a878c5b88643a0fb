"""What is undocumented fails here, and so does a page that no longer says the truth."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from app.cli import app
from app.cli_docs import law_pages, out_of_step
from app.cli_docs_reference import command_line, commands
from app.settings import Settings
from fitting import LAWS

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
# Written by hand: what a generated page lists is not yet explained.
BY_HAND = [page for page in PAGES if "Written by `make docs`" not in page.read_text("utf-8")]
PROSE = "\n".join(page.read_text("utf-8") for page in BY_HAND)
REMEDY = "run: make docs"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", page.read_text("utf-8"))


def python(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd), "COLUMNS": "160", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
    )


# What the code has, the pages have


def test_every_law_has_its_page_and_the_page_is_in_step() -> None:
    assert out_of_step(law_pages(LAWS), DOCS / "laws") == [], REMEDY


def test_the_list_of_commands_is_in_step() -> None:
    page = DOCS / "reference" / "command-line.md"
    assert page.is_file() and page.read_text("utf-8") == command_line(), REMEDY


def test_the_list_of_routes_is_in_step() -> None:
    pytest.importorskip("app.main", exc_type=ImportError)
    from app.cli_docs_reference import rest

    page = DOCS / "reference" / "rest.md"
    assert page.is_file() and page.read_text("utf-8") == rest(), REMEDY


def test_every_setting_is_explained() -> None:
    page = (DOCS / "operations" / "settings.md").read_text("utf-8")
    unsaid = [f"SCALEWRIGHT_{name.upper()}" for name in Settings.model_fields]
    assert [name for name in unsaid if f"`{name}`" not in page] == []


def test_every_command_is_explained_by_hand_somewhere() -> None:
    names = [name for name, _ in commands(typer.main.get_command(app), "scalewright")]
    unsaid = [
        name
        for name in names
        if not re.search(rf"{name}\b", PROSE) and not name.startswith("scalewright docs")
    ]
    assert unsaid == [], "say in docs/how-to/operate.md or another page what they are for"


def test_every_resource_is_explained_by_hand_somewhere() -> None:
    pytest.importorskip("app.main", exc_type=ImportError)
    from app.main import create_app

    paths = create_app(Settings(database_url=None)).openapi()["paths"]
    resources = {path.split("/")[2] for path in paths if path.startswith("/v1/")}
    unsaid = [one for one in sorted(resources) if f"/v1/{one}" not in PROSE]
    assert unsaid == [], "say in docs/ what they are for: docs/how-to/use-rest.md is a place for it"


# What the pages have, is there


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"(?ms)^```.*?^```|<!--.*?-->", "", page.read_text("utf-8"))
    yield from re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"(?m)^#+ (.*)$", page.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert ROOT in target.parents or target == ROOT, f"{link} leads out of the repository"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: no such heading"


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(page)
    }
    decisions = DOCS / "decisions"
    alone = [
        str(page.relative_to(ROOT))
        for page in PAGES
        if page not in linked and page.parent not in (ROOT, decisions)
    ]
    assert alone == [], "link them from README.md or docs/README.md"


def test_the_commands_of_the_pages_exist() -> None:
    known = {name for name, _ in commands(typer.main.get_command(app), "scalewright")}
    groups = {name.rsplit(" ", 1)[0] for name in known if name.count(" ") > 1}
    for page in BY_HAND:
        for line in "".join(blocks(page, "sh")).splitlines():
            for words in re.findall(r"(?:^|\s|\")scalewright ([a-z-]+(?: [a-z-]+)?)", line):
                first = f"scalewright {words.split()[0]}"
                whole = f"scalewright {words}" if first in groups else first
                assert whole in known, f"{page.relative_to(ROOT)}: {line}"


def test_the_make_targets_of_the_pages_exist() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    for page in BY_HAND:
        for name in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text("utf-8"), re.M):
            assert name in targets, f"{page.relative_to(ROOT)}: make {name}"


# What the pages show, runs


def test_the_python_of_the_readme_runs() -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    assert len(code.strip().splitlines()) == 5
    done = python("-c", code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("converged {'E': ")


def test_the_commands_on_files_of_the_readme_run(tmp_path: Path) -> None:
    text = next(b for b in blocks(ROOT / "README.md", "sh") if "scalewright fit" in b)
    shutil.copytree(DOCS / "examples", tmp_path / "docs" / "examples")
    for line in text.strip().splitlines():
        words = line.split()
        assert words[0] == "scalewright"
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", *words[1:]],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "fit.json").is_file()


def test_the_sample_runs_give_back_the_law_that_they_were_made_from() -> None:
    """docs/examples/runs.csv: Besiroglu et al.'s constants and half a percent of noise."""
    from app.importers import read_runs
    from fitting import fit

    truth = LAWS["chinchilla"].published
    assert truth is not None
    found = fit(LAWS["chinchilla"], read_runs(DOCS / "examples" / "runs.csv"), level=0.99)
    for name, (low, high) in found.intervals().items():
        assert low < truth.params[name] < high


def test_a_law_is_one_file_and_one_test(tmp_path: Path) -> None:
    """CONTRIBUTING's toy law, in a copy of the code: everything has it, nothing else changed."""
    for name in ("app", "fitting", "workers", "migrations", "tests/fitting"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests" / "__init__.py").touch()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    files = re.findall(r"(?ms)^`([\w/]+\.py)`:\n\n```python\n(.*?)^```", page)
    assert [Path(name).parent.name for name, _ in files] == ["laws", "laws"]
    for name, code in files:
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(code)
    law, test = (name for name, _ in files)
    toy = Path(law).stem

    passed = python("-m", "pytest", "-q", test, cwd=tmp_path)
    assert passed.returncode == 0, passed.stdout
    every = ("-m", "pytest", "-q", "tests/fitting/test_every_law.py", "-k", toy)
    passed = python(*every, cwd=tmp_path)
    assert passed.returncode == 0, passed.stdout

    laws = python("-m", "app.cli", "laws", "--json", cwd=tmp_path)
    assert f'"name": "{toy}"' in laws.stdout
    runs = DOCS / "examples" / "runs.csv"
    fitted = python("-m", "app.cli", "fit", toy, str(runs), "--json", cwd=tmp_path)
    assert fitted.returncode == 0, fitted.stderr
    assert f'"law": "{toy}"' in fitted.stdout

    assert python("-m", "app.cli", "docs", "laws", cwd=tmp_path).returncode == 0
    assert (tmp_path / "docs" / "laws" / f"{toy}.md").is_file()
    if (ROOT / "app" / "main.py").exists():
        document = python("-m", "app.cli", "openapi", cwd=tmp_path)
        assert document.returncode == 0, document.stderr
        assert f'"{toy}"' in document.stdout, "the REST document does not name the law"
