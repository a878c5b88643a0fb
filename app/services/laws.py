"""The registry of laws, as the outside sees it. Nothing here names a law."""

from typing import Any

import numpy as np

import fitting
from app.services.errors import not_found
from fitting import Law

EXAMPLE_POINTS_A_SIDE = 4


def names() -> list[str]:
    return list(fitting.LAWS)


def input_names() -> list[str]:
    """Every plain number that some law takes, each once."""
    every = (one.name for law in fitting.LAWS.values() for one in law.inputs)
    return list(dict.fromkeys(every))


def further_inputs() -> list[str]:
    """The inputs beside N, D and compute, which every run may have."""
    return [name for name in input_names() if name not in ("N", "D", "C")]


def find(name: str) -> Law:
    """The law of that name; ServiceError (not_found) names the known ones."""
    law = fitting.LAWS.get(name)
    if law is None:
        error = not_found("law", repr(name))
        error.hint = f"Use one of {', '.join(names())}."
        raise error
    return law


def describe(law: Law) -> dict[str, Any]:
    """name, title, latex, source, inputs, params, published: what docs and forms are made from."""
    published = law.published
    return {
        "name": law.name,
        "title": law.title,
        "latex": law.latex,
        "source": law.source,
        "about": getattr(law, "about", ""),
        "inputs": [
            {
                "name": one.name,
                "unit": one.unit,
                "about": one.about,
                "typical": [float(bound) for bound in one.typical],
                "kind": one.kind,
            }
            for one in law.inputs
        ],
        "params": [{"name": one.name, "about": one.about} for one in law.params],
        "published": None
        if published is None
        else {
            "params": {name: float(value) for name, value in published.params.items()},
            "at": {name: float(value) for name, value in published.at.items()},
            "loss": float(published.loss),
            "source": published.source,
        },
        "example": {"points": example_points(law)},
    }


def example_points(law: Law) -> list[dict[str, float]]:
    """Points that the law can be fitted to: a grid over the inputs' typical ranges, with the
    published law's losses (or those of plausible parameters) to seven digits."""
    per_side = (
        max(EXAMPLE_POINTS_A_SIDE, len(law.params))
        if len(law.inputs) == 1
        else (EXAMPLE_POINTS_A_SIDE)
    )
    axes = [np.geomspace(*_positive_range(one.typical), per_side) for one in law.inputs]
    grid = np.meshgrid(*axes, indexing="ij")
    inputs = {
        one.name: np.array([float(f"{v:.3g}") for v in column.ravel()])
        for one, column in zip(law.inputs, grid, strict=True)
    }
    params = dict(law.published.params) if law.published else _plausible(law)
    loss = np.broadcast_to(law.loss(inputs, params), inputs[law.inputs[0].name].shape)
    return [
        {**{name: float(column[i]) for name, column in inputs.items()}, "loss": round(float(y), 7)}
        for i, y in enumerate(loss)
    ]


def _positive_range(typical: tuple[float, float]) -> tuple[float, float]:
    low, high = float(typical[0]), float(typical[1])
    return (low if low > 0 else high / 1000.0), high


def _plausible(law: Law) -> dict[str, float]:
    """The middle of each parameter's starts."""
    return {one.name: float(np.median(one.starts)) for one in law.params}
