"""`scalewright docs`: the pages that are written from the code.

`laws` writes the page of every law from its LAW; `reference` the lists of commands and
routes. `make docs` runs both; `tests/test_docs.py` holds that the pages are in step.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fitting import Law

MARK = "<!-- Written by `make docs` from the code. Do not edit. -->"

Check = Annotated[
    bool, typer.Option("--check", help="Write nothing; exit 1 if a page is out of step.")
]
docs = typer.Typer(no_args_is_help=True, help="Write the pages that come from the code.")


@docs.command("laws")
def laws(
    folder: Annotated[Path, typer.Option(help="Where the pages go.")] = Path("docs/laws"),
    check: Check = False,
) -> None:
    """Write one page for each law, and their list."""
    from fitting import LAWS

    _put(law_pages(LAWS), folder, check)


@docs.command("reference")
def reference(
    folder: Annotated[Path, typer.Option(help="Where the pages go.")] = Path("docs/reference"),
    check: Check = False,
) -> None:
    """Write the lists of commands and of REST routes."""
    from app.cli_docs_reference import reference_pages

    _put(reference_pages(), folder, check)


def _put(pages: Mapping[str, str], folder: Path, check: bool) -> None:
    stale = out_of_step(pages, folder)
    if check:
        for name in stale:
            typer.echo(f"{folder / name} is out of step with the code", err=True)
        if stale:
            typer.echo("Run: make docs", err=True)
            raise typer.Exit(1)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in stale:
        if name not in pages:
            (folder / name).unlink()
    typer.echo(f"{len(pages)} pages in {folder}, {len(stale)} changed", err=True)


def out_of_step(pages: Mapping[str, str], folder: Path) -> list[str]:
    """The pages that differ from what is in the folder, and those of things that are gone."""
    differ = [
        name
        for name, text in pages.items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]
    gone = [
        path.name
        for path in sorted(folder.glob("*.md"))
        if path.name not in pages and MARK in path.read_text(encoding="utf-8")
    ]
    return differ + gone


def law_pages(laws: "Mapping[str, Law]") -> dict[str, str]:
    """{file name: text}: a page for each law, and README.md that lists them."""
    pages = {f"{law.name}.md": law_page(law) for law in laws.values()}
    rows = [
        f"| [`{law.name}`]({law.name}.md) | {_cell(law.title)} | "
        f"{', '.join(law.input_names)} | {len(law.params)} | {_cell(law.source)} |"
        for law in laws.values()
    ]
    pages["README.md"] = "\n".join(
        [
            "# Laws",
            "",
            MARK,
            "",
            "Each page is written from the law itself. To add one, see"
            " [CONTRIBUTING](../../CONTRIBUTING.md).",
            "",
            "| law | | inputs | parameters | source |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )
    return pages


def law_page(law: "Law") -> str:
    """What a reader needs of one law: formula, letters, an example, the source."""
    inputs = ",".join(law.input_names)
    lines = [
        f"# {law.title}",
        "",
        MARK,
        "",
        f"`{law.name}` · {law.source}",
        "",
        "$$",
        law.latex,
        "$$",
        "",
    ]
    if getattr(law, "about", ""):
        lines += [law.about, ""]
    lines += [
        "## Inputs",
        "",
        "| name | unit | meaning | typical range |",
        "|---|---|---|---|",
        *(
            f"| `{one.name}` | {_cell(one.unit)} | {_cell(one.about)} | {_range(one.typical)} |"
            for one in law.inputs
        ),
        "",
        "## Parameters",
        "",
        "| name | meaning | starts from |",
        "|---|---|---|",
        *(
            f"| `{one.name}` | {_cell(one.about)} | {', '.join(f'{s:g}' for s in one.starts)} |"
            for one in law.params
        ),
        "",
    ]
    if law.published is not None:
        known = law.published
        lines += [
            "## Worked example",
            "",
            f"{known.source}: "
            + ", ".join(f"{name} = {value:.9g}" for name, value in known.params.items())
            + ".",
            "",
            "At "
            + ", ".join(f"{name} = {_value(value)}" for name, value in known.at.items())
            + f" the law gives **{known.loss:.9g}**.",
            "",
        ]
    lines += [
        "## Use it",
        "",
        "```sh",
        f"scalewright fit {law.name} runs.csv --out fit.json   # columns {inputs},loss",
        f"scalewright predict fit.json --at points.csv   # columns {inputs}",
        "```",
        "",
        "```python",
        "from fitting import Runs, fit, get_law",
        "",
        f'law = get_law("{law.name}")',
        "runs = Runs(inputs={"
        + ", ".join(f'"{name}": {name}' for name in law.input_names)
        + "}, loss=loss)",
        "print(fit(law, runs).params)",
        "```",
        "",
        "Over REST, `POST /v1/fits` with",
        "",
        "```json",
        f'{{"law": "{law.name}", "points": [{_example_point(law)}]}}',
        "```",
        "",
    ]
    return "\n".join(lines)


def _example_point(law: "Law") -> str:
    low = ", ".join(f'"{one.name}": {_value(one.typical[0])}' for one in law.inputs)
    return f'{{{low}, "loss": 3.1}}, ...'


def _range(typical: tuple[float, float]) -> str:
    return f"{typical[0]:g} to {typical[1]:g}"


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
