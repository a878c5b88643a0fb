"""Caballero et al. 2022, "Broken Neural Scaling Laws", equation 1: power laws joined smoothly.

L(C) = a + b C^-c0 * prod_i (1 + (C / d_i)^(1 / f_i))^(-c_i f_i)

On a log-log plot of L - a: slope -c0, then, around each d_i, a bend that is f_i wide and makes the
slope steeper by c_i (less steep for a negative c_i). The scale may be compute, tokens, parameters
or steps; it is called C here.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from fitting.law import Exponential, Input, Law, Param
from fitting.links import IDENTITY, LOG, bounded


def broken_loss(C: Any, a: Any, b: Any, c0: Any, breaks: list[tuple[Any, Any, Any]]) -> Any:
    """The formula with any number of breaks, each (c_i, d_i, f_i)."""
    return a + b * np.exp(log_power(C, c0, breaks))


def log_power(C: Any, c0: Any, breaks: list[tuple[Any, Any, Any]]) -> Any:
    """The logarithm of the power laws that are joined, without their coefficient."""
    log_C = np.log(C)
    out = -c0 * log_C
    for c, d, f in breaks:
        out = out - c * f * np.log1p(np.exp((log_C - np.log(d)) / f))
    return out


def _formula(count: int) -> Callable[..., Any]:
    """`broken_loss` with `count` breaks as a function of named parameters: c1, d1, f1, c2, ..."""

    def loss(C: Any, **p: Any) -> Any:
        return broken_loss(C, p["a"], p["b"], p["c0"], _breaks(count, p))

    kinds = inspect.Parameter
    loss.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [kinds("C", kinds.POSITIONAL_OR_KEYWORD)]
        + [kinds(p.name, kinds.KEYWORD_ONLY) for p in _params(count)]
    )
    return loss


def _exponent(count: int) -> Callable[..., Any]:
    """ln(L - a), likewise of named parameters."""

    def exponent(C: Any, **p: Any) -> Any:
        return np.log(p["b"]) + log_power(C, p["c0"], _breaks(count, p))

    return exponent


def _breaks(count: int, p: dict[str, Any]) -> list[tuple[Any, Any, Any]]:
    return [(p[f"c{i}"], p[f"d{i}"], p[f"f{i}"]) for i in range(1, count + 1)]


def _params(count: int) -> tuple[Param, ...]:
    params: tuple[Param, ...] = (
        Param("a", "the floor", (0.3, 3.0), bounded(0.0, float("inf"))),
        Param("b", "the coefficient of the first power law", (10.0, 1e5), LOG),
        Param("c0", "the first power law's exponent", (0.02, 0.3), bounded(-1.0, 3.0)),
    )
    for i in range(1, count + 1):
        params += (
            Param(f"c{i}", f"what break {i} adds to the exponent", (-0.1, 0.3), IDENTITY),
            Param(f"d{i}", f"where break {i} is", (10.0 ** (i - 3), 10.0**i), LOG, of="C"),
            Param(f"f{i}", f"how wide break {i} is, in e-folds", (0.1, 2.0), bounded(0.05, 10.0)),
        )
    return params


def broken_law(count: int) -> Law:
    """The law with `count` breaks, 3 + 3 `count` parameters."""
    breaks = "one break" if count == 1 else f"{count} breaks"
    return Law(
        name="broken" if count == 1 else f"broken_{count}",
        title=f"Broken power law, {breaks}",
        latex=r"L(C) = a + b\, C^{-c_0} \prod_{i=1}^{"
        + str(count)
        + r"} \left(1 + \left(\frac{C}{d_i}\right)^{1 / f_i}\right)^{-c_i f_i}",
        source="Caballero et al. 2022, arXiv 2210.14891, eq. 1",
        about="Describes curves whose slope changes: double descent, sharp turns, the early part "
        "of a loss curve. It describes better than it forecasts: a break beyond the data cannot "
        "be seen. C may be any one scale.",
        formula=_formula(count),
        inputs=(Input("C", "FLOPs", "training compute, or any one scale", (1e16, 1e24)),),
        params=_params(count),
        linear=("a", "b"),
        exponential=Exponential("a", _exponent(count)),
    )


LAW = (broken_law(1), broken_law(2))
