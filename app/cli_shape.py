"""What commands about time share: the family of shapes, lists of sizes, and a machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli_output import read_json

if TYPE_CHECKING:
    from fitting.costs import Shape, StepTime

FAMILY_KEYS = {
    "vocab_size": int, "seq_len": int, "head_dim": int, "kv_share": float, "ff_ratio": float,
    "mlp": str, "tied": str,
}  # fmt: skip
FAMILY_HELP = (
    "The family of models, KEY=VALUE: vocab_size, seq_len, head_dim, kv_share (heads a key-value "
    "head), ff_ratio (MLP width over model width), mlp (swiglu, geglu, gelu, relu2), tied; repeat."
)
Family = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help=FAMILY_HELP)]


def family_of(pairs: Sequence[str] | None, needed: bool = False) -> "Shape | None":
    """["vocab_size=50304", "head_dim=128"] -> a shape to resize; None where nothing was said and
    nothing is needed. What is left out: 50,304 tokens, context 2,048, heads of 128, SwiGLU of
    8/3 the width."""
    if not pairs and not needed:
        return None
    from fitting.costs import Shape

    given: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if key not in FAMILY_KEYS or not equals:
            raise typer.BadParameter(
                f"{pair!r} is not KEY=VALUE with one of {', '.join(FAMILY_KEYS)}",
                param_hint="--family",
            )
        try:
            given[key] = FAMILY_KEYS[key](value)
            if key in ("kv_share", "ff_ratio") and not 0 < given[key] < 1e6:
                raise ValueError
        except ValueError:
            raise typer.BadParameter(f"{value!r} is no {key}", param_hint="--family") from None
    head_dim, mlp = given.get("head_dim", 128), given.get("mlp", "swiglu")
    ratio = given.get("ff_ratio", 8 / 3 if mlp in ("swiglu", "geglu") else 4.0)
    heads = 16
    return Shape(
        d_model=heads * head_dim,
        n_layers=16,
        d_ff=round(ratio * heads * head_dim),
        vocab_size=given.get("vocab_size", 50304),
        n_heads=heads,
        seq_len=given.get("seq_len", 2048),
        n_kv_heads=max(1, round(heads / given.get("kv_share", 1.0))),
        head_dim=head_dim,
        mlp=mlp,
        tied=given.get("tied", "false").lower() in ("true", "yes", "1"),
    )


MOST_CHOICES = 100_000  # of one range: more is a slip


def numbers_of(texts: Sequence[str] | None, option: str) -> list[int] | None:
    """["1024", "512:4096:128"] -> whole numbers, the end of a range among them; None if none."""
    if not texts:
        return None
    out: list[int] = []
    for text in texts:
        try:
            parts = [int(float(part)) for part in text.split(":")]
            if len(parts) == 1:
                out += parts
            else:
                first, last, step = (*parts, 1) if len(parts) == 2 else parts
                if not 0 <= (last - first) / step <= MOST_CHOICES:
                    raise ValueError
                out += range(first, last + 1, step)
        except (ValueError, TypeError, OverflowError, ZeroDivisionError):
            raise typer.BadParameter(
                f"{text!r} is neither a number nor FIRST:LAST[:STEP]", param_hint=option
            ) from None
    return sorted(set(out))


def step_time_of(path: Path | None, gpu: str | None) -> "StepTime":
    """The machine: calibrated, or by its data sheet; anything but one of them is wrong usage."""
    from fitting.costs import StepTime, get_gpu, prior_step_time

    if (path is None) == (gpu is None):
        raise typer.BadParameter("give STEP_TIME.json, or --gpu for a data sheet (one of them)")
    if path is not None:
        return StepTime.from_dict(read_json(path, "a step-time model"))
    return prior_step_time(get_gpu(gpu or ""))
