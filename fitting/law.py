"""Law: a pure function and the facts about it.

A new law is one file in `fitting/laws/` that ends in `LAW = Law(...)`:

    def loss(N, D, *, E, A, B, alpha, beta):
        return E + A * N**-alpha + B * D**-beta

    LAW = Law(
        name="chinchilla",
        formula=loss,
        inputs=(Input("N", "parameters", "model size", (1e7, 1e11)), ...),
        params=(Param("E", "irreducible loss", starts=(0.5, 3.0), link=LOG), ...),
        published=Published({"E": 1.8172, ...}, at={"N": 7e10, "D": 1.4e12}, loss=1.9739, ...),
        ...
    )

What a formula promises (`tests/fitting/test_every_law.py` holds every law to it):
- positional arguments are the inputs, keyword-only arguments the parameters, named as described;
- it broadcasts: parameters may carry a leading batch axis (`[batch, 1]`), inputs a trailing one
  (`[points]`), the answer is `[batch, points]`;
- numpy ufuncs only, and it accepts complex parameters: no `abs`, `max` or comparison on a
  parameter, unless the law brings its own `jacobian`;
- the answer is a positive loss wherever parameters and inputs are in their ranges.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fitting.errors import FittingError
from fitting.links import Floats, Link


@dataclass(frozen=True)
class Input:
    """What is known before a run: N, D, ...

    unit: in words ("parameters", "tokens", "FLOPs"). typical: the range that draws the axes, fills
    the examples and makes test data. kind: "number" (one float a point), or the name of a richer
    type that the law reads. positive: zero and negative values are refused.
    """

    name: str
    unit: str
    about: str
    typical: tuple[float, float]
    kind: str = "number"
    positive: bool = True


@dataclass(frozen=True)
class Prior:
    """A Gaussian on the solver's line of a parameter (its logarithm for a LOG link); what it weighs
    against points: `fitting.prior`."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Param:
    """What the fit finds.

    starts: plausible values; the smallest and the largest span the box from which starts are drawn.
    link: `LOG`, `IDENTITY` or `bounded(lo, hi)`, see `fitting.links`.
    of: the input whose axis this parameter is a place on (a break, say): the starts are then
    multiples of that input's geometric mean in the data, so that no unit is better than another.
    """

    name: str
    about: str
    starts: tuple[float, ...]
    link: Link
    prior: Prior | None = None
    of: str | None = None


@dataclass(frozen=True)
class Published:
    """Constants printed in a paper and one number that they imply: example and test at once.

    rtol: how closely the formula must give `loss` (the printed number's own rounding).
    """

    params: Mapping[str, float]
    at: Mapping[str, float]
    loss: float
    source: str
    rtol: float = 1e-3


@dataclass(frozen=True)
class PowerSum:
    """The formula is floor + sum of coefficient * input**-exponent, parameter names as given.

    A law that says so gets variable projection and exact second derivatives, ten times faster than
    the generic engine. Terms may share an exponent (tied exponents). floor None: no constant.
    """

    floor: str | None
    terms: tuple[tuple[str, str, str], ...]  # (coefficient, input, exponent)


@dataclass(frozen=True)
class Exponential:
    """The formula is floor + exp(exponent), with `exponent(*inputs, **params)` of all parameters
    but the floor. A law that says so gets its second derivatives in half the time.
    """

    floor: str | None
    exponent: Callable[..., Any]


@dataclass(frozen=True)
class Law:
    """One scaling law: the formula and the facts about it. See the module's first lines.

    linear: parameters in which the formula is linear and homogeneous when taken together (it is
    zero when all of them are zero); the start values of these are then solved for, not guessed.
    jacobian: `jacobian(*inputs, **params) -> {param: d loss / d param}`, broadcasting like the
    formula, for a law that dual numbers cannot follow.
    """

    name: str
    title: str
    latex: str
    source: str
    formula: Callable[..., Any]
    inputs: tuple[Input, ...]
    params: tuple[Param, ...]
    published: Published | None = None
    about: str = ""
    powers: PowerSum | None = None
    linear: tuple[str, ...] = ()
    jacobian: Callable[..., Mapping[str, Any]] | None = None
    exponential: Exponential | None = None
    input_names: tuple[str, ...] = field(init=False, repr=False)
    param_names: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "input_names", tuple(i.name for i in self.inputs))
        object.__setattr__(self, "param_names", tuple(p.name for p in self.params))
        kinds = inspect.signature(self.formula).parameters
        positional = tuple(k for k, v in kinds.items() if v.kind is v.POSITIONAL_OR_KEYWORD)
        keyword = tuple(k for k, v in kinds.items() if v.kind is v.KEYWORD_ONLY)
        if positional != self.input_names or keyword != self.param_names:
            raise TypeError(
                f"law {self.name!r}: the formula takes ({', '.join(positional)}, *, "
                f"{', '.join(keyword)}) but the description says ({', '.join(self.input_names)}, "
                f"*, {', '.join(self.param_names)})"
            )
        for name in self.linear:
            if name not in self.param_names:
                raise TypeError(f"law {self.name!r}: linear names {name!r}, not a parameter")
        if self.powers is not None:
            named = {c for c, _, _ in self.powers.terms} | {e for _, _, e in self.powers.terms}
            named |= {self.powers.floor} if self.powers.floor else set()
            if named != set(self.param_names):
                raise TypeError(f"law {self.name!r}: powers name {sorted(named)}")
        if self.exponential is not None and self.exponential.floor not in (None, *self.param_names):
            raise TypeError(
                f"law {self.name!r}: the floor {self.exponential.floor!r} is not a parameter"
            )
        if self.published is not None and set(self.published.params) != set(self.param_names):
            raise TypeError(f"law {self.name!r}: the published constants do not name every param")

    def evaluate(self, inputs: Mapping[str, ArrayLike], values: ArrayLike) -> Any:
        """Loss [..., points] for parameters `values` [..., params] and inputs {name: [points]}."""
        v = np.asarray(values)
        columns = [np.asarray(inputs[name], dtype=float) for name in self.input_names]
        named = {name: v[..., j, None] for j, name in enumerate(self.param_names)}
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return self.formula(*columns, **named)

    def loss(self, inputs: Mapping[str, ArrayLike], params: Mapping[str, float]) -> Floats:
        """Loss at the points of `inputs` for one set of named parameters."""
        return np.asarray(self.evaluate(inputs, self.values(params)), dtype=float)

    def values(self, params: Mapping[str, float]) -> Floats:
        """{name: value} -> array in the law's own order."""
        return np.array([float(params[name]) for name in self.param_names])

    def to_line(self, values: ArrayLike) -> Floats:
        """Parameters [..., p] -> solver coordinates [..., p]."""
        v = np.asarray(values, dtype=float)
        return np.stack([p.link.to_line(v[..., j]) for j, p in enumerate(self.params)], axis=-1)

    def from_line(self, theta: ArrayLike) -> Floats:
        """Solver coordinates [..., p] -> parameters [..., p]."""
        t = np.asarray(theta, dtype=float)
        return np.stack([p.link.from_line(t[..., j]) for j, p in enumerate(self.params)], axis=-1)

    def columns(self, inputs: Mapping[str, ArrayLike]) -> dict[str, Floats]:
        """The law's own inputs as 1-D float arrays, checked for presence and finiteness."""
        out = {}
        for i in self.inputs:
            if i.name not in inputs:
                raise FittingError(
                    "missing_input",
                    f"{self.name} needs {', '.join(self.input_names)}; {i.name} is missing.",
                    f"Give {i.name} ({i.about}, {i.unit}).",
                    input=i.name,
                )
            column = np.atleast_1d(np.asarray(inputs[i.name], dtype=float))
            bad = ~np.isfinite(column) | ((column <= 0) if i.positive else False)
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                raise FittingError(
                    "bad_value",
                    f"{i.name} is {column[row]} in row {row + 1}.",
                    f"{i.name} ({i.unit}) must be {'positive' if i.positive else 'finite'}.",
                    row=row,
                    input=i.name,
                )
            out[i.name] = column
        lengths = {k: v.size for k, v in out.items()}
        if len(set(lengths.values()) - {1}) > 1:
            raise FittingError(
                "shape", f"The inputs have unequal lengths: {lengths}.", "Give one value a point."
            )
        n = max(lengths.values())
        return {k: np.broadcast_to(v, n).astype(float) for k, v in out.items()}
