"""The serial view: what a deadline allows when only steps in a row count (Kaplan et al. 2020).

L(N, S_min) with S_min = S / (1 + B_crit(L) / B): a larger batch makes each step worth more, up to
the critical batch B_crit = B* / L^(1/alpha_B), and costs more compute. S is the deadline divided by
the step time, so the machine decides with the law how large a batch should be.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fitting.costs import Setup, Shape, StepTime
from fitting.errors import FittingError
from fitting.fit import Fit
from fitting.laws import get_law
from fitting.laws.kaplan_steps import critical_batch, minimum_steps


@dataclass(frozen=True)
class SerialRow:
    """One batch size: loss after `hours`, the steps and tokens that fit, the critical batch at
    that loss, and the share of steps that are worth taking (S_min / S)."""

    batch_tokens: float
    step_seconds: float
    steps: float
    tokens: float
    loss: float
    critical_batch: float
    efficiency: float

    def to_dict(self) -> dict[str, float]:
        return dict(self.__dict__)


def serial_view(
    step_time: StepTime,
    shape: Shape,
    setup: Setup,
    hours: float,
    batches: Sequence[float],
    fit: Fit | None = None,
) -> list[SerialRow]:
    """Loss at a deadline for each batch size. fit: of the law kaplan_steps; else the paper's own
    constants (its models, its data: for comparing batches, not for the loss). N leaves the
    embeddings out, as there."""
    law = get_law("kaplan_steps")
    if fit is not None and fit.law.name != law.name:
        raise FittingError(
            "bad_option", f"The serial view needs a fit of {law.name}, not {fit.law.name}.",
            "Fit it to runs with their steps.",
        )  # fmt: skip
    assert law.published is not None
    params: dict[str, Any] = dict(law.published.params) if fit is None else fit.params
    n = float(shape.parameters("blocks"))
    if not hours > 0:
        raise FittingError("bad_option", f"hours is {hours}.", "It must be positive.")
    out = []
    for batch in batches:
        one = replace(setup, batch_tokens=float(batch))
        seconds = step_time.predict(shape, one).seconds
        steps = 3600.0 * hours / seconds
        loss = float(law.formula(n, steps, **params))
        for _ in range(200):  # L -> B_crit(L) -> S_min -> L: a contraction, damped
            again = float(law.formula(n, minimum_steps(steps, batch, loss), **params))
            if abs(again - loss) < 1e-12 * loss:
                break
            loss = 0.5 * (loss + again)
        out.append(
            SerialRow(
                batch_tokens=float(batch), step_seconds=seconds, steps=steps,
                tokens=steps * batch, loss=loss, critical_batch=float(critical_batch(loss)),
                efficiency=float(minimum_steps(1.0, batch, loss)),
            )
        )  # fmt: skip
    return out
