"""A ladder of model sizes from one dial, the width: what a sweep means by `ladder`.

Depth and heads follow from the width, so that a size is one number and sizes differ in nothing
else: n_layers is width / 64, as in nanochat (its dial is the depth), and 2 at least, for below a
width of 128 a proxy is too small to be cut into more. Heads are of 128 from a width of 768, of 64
from 192, and of 16 (8 where that does not divide) below.

The rungs from 16 to 128 (bytes) and from 256 to 1280 are those on which this trainer was tried;
192, 1536 and 2048 carry on in the same steps.
"""

import math
from collections.abc import Mapping
from typing import Any

from app.services.errors import ServiceError

RUNGS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
WIDTH_OF_A_LAYER = 64  # nanochat, scripts/base_train.py: model_dim = depth * 64
MIN_LAYERS = 2


def shape_of(width: int) -> dict[str, int]:
    """The size that the dial gives at `width`.

    >>> shape_of(768)
    {'d_model': 768, 'n_layers': 12, 'head_dim': 128}
    """
    layers = max(MIN_LAYERS, round(width / WIDTH_OF_A_LAYER))
    small, large = 8 if width % 16 else 16, 128 if width >= 768 else 64
    head = large if width >= 192 else small
    return {"d_model": width, "n_layers": layers, "head_dim": head}


def ladder(spec: Mapping[str, Any]) -> list[dict[str, int]]:
    """`sizes` rungs between the widths `from` and `to`, both among them, as evenly spaced in
    log width as the rungs allow; all of them where `sizes` is left out.

    Raises ServiceError with the rungs there are.
    """
    low, high = int(spec["from"]), int(spec["to"])
    between = [width for width in RUNGS if low <= width <= high]
    for name, width in (("from", low), ("to", high)):
        if width not in RUNGS or low >= high:
            raise ServiceError(
                "invalid",
                f"ladder.{name} is {width}, in a ladder from {low} to {high}.",
                f"Give two rising widths out of {', '.join(map(str, RUNGS))}.",
                column=f"ladder.{name}",
                value=width,
            )
    count = len(between) if spec.get("sizes") is None else int(spec["sizes"])
    if not 2 <= count <= len(between):
        raise ServiceError(
            "invalid",
            f"ladder.sizes is {count}, and there are {len(between)} rungs from {low} to {high}: "
            f"{', '.join(map(str, between))}.",
            f"Ask for 2 to {len(between)}, widen the ladder, or give `sizes`.",
            column="ladder.sizes",
            value=count,
        )
    return [shape_of(width) for width in _spread(between, count)]


def _spread(widths: list[int], count: int) -> list[int]:
    """`count` of the rising `widths`, first and last among them: one after the other, each the
    nearest in log to an even spacing that leaves enough for those to come."""
    chosen = [0]
    step = math.log(widths[-1] / widths[0]) / (count - 1)
    for i in range(1, count):
        wanted = math.log(widths[0]) + i * step
        open_ = range(chosen[-1] + 1, len(widths) - (count - 1 - i))
        chosen.append(min(open_, key=lambda j: abs(math.log(widths[j]) - wanted)))
    return [widths[j] for j in chosen]
