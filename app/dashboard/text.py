"""Numbers as people read them: 1.4B parameters, 5.76e23 as 5.76 × 10²³, 2.41 [2.37, 2.46].

Every page and every figure writes its numbers through these functions, so that one quantity looks
the same wherever it stands. The full-precision value belongs in the `title` of the element.
"""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LETTERS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_COUNTED = ("parameters", "tokens", "steps", "samples", "documents", "bytes", "sequences")
_WHOLE = ("channels", "layers")
_FROM_SUPERSCRIPT = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_FACTORS = {letter: size for size, letter in _LETTERS} | {"K": 1e3, "G": 1e9}
MISSING = "–"


def significant(value: float, digits: int = 3) -> str:
    """`value` with `digits` significant digits and no exponent; trailing zeros stay (1.40)."""
    if value == 0:
        return "0"
    # the exponent after rounding: .9996 is written 1.00
    decimals = digits - 1 - int(f"{value:.{digits - 1}e}".split("e")[1])
    return f"{round(value, decimals):,.{max(0, decimals)}f}"


def scientific(value: float, digits: int = 3) -> str:
    """5.76e23 -> 5.76 × 10²³."""
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.replace("-", "−")
    power = "10" + str(int(exponent)).translate(_SUPERSCRIPT)
    return power if digits == 1 and mantissa == "1" else f"{mantissa} × {power}"


def number(value: float | None, digits: int = 4) -> str:
    """A number of no particular unit: plain between 1e-4 and 1e6, scientific outside."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e6:
        return significant(value, digits).replace("-", "−")
    return scientific(value, digits)


def quantity(value: float | None, unit: str = "", digits: int = 3) -> str:
    """A number in its unit's habit: 1.40B for counts, 5.76 × 10²³ for FLOPs; the unit itself is
    not printed (the column or the axis has it)."""
    if value is None or not math.isfinite(value):
        return number(value, digits)
    if unit.lower() == "flops":
        return scientific(value, digits)
    if unit in _WHOLE:
        return f"{value:,.0f}"
    if any(word in unit.lower() for word in _COUNTED):
        if abs(value) >= 1e15:
            return scientific(value, digits)
        for size, letter in _LETTERS:
            # 999.6M is written 1.00B
            if abs(float(f"{value:.{digits - 1}e}")) >= size:
                return significant(value / size, digits) + letter
        return f"{value:,.0f}" if value == round(value) else significant(value, digits)
    return number(value, digits)


def tick(value: float, unit: str = "") -> str:
    """The shortest honest label for an axis: 1B, 300M, 10²¹, 2.5."""
    if unit.lower() == "flops" or (value and not 1e-4 <= abs(value) < 1e15):
        mantissa, exponent = f"{value:.10e}".split("e")
        power = "10" + str(int(exponent)).translate(_SUPERSCRIPT)
        head = f"{float(mantissa):.6g}"
        return power if head == "1" else f"{head}×{power}"
    if any(word in unit.lower() for word in _COUNTED):
        for size, letter in _LETTERS:
            if abs(value) >= size * (1 - 1e-9):
                return f"{value / size:.6g}{letter}"
    return f"{value:.6g}"


def loss(value: float | None) -> str:
    """A loss, to three decimals: differences below .001 nats are noise between seeds."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.3f}"


def interval(lower: float | None, upper: float | None, unit: str = "loss") -> str:
    """[2.371, 2.455]; the unit chooses how the ends are written."""
    if lower is None or upper is None:
        return MISSING
    if unit == "loss":
        return f"[{loss(lower)}, {loss(upper)}]"
    return f"[{quantity(lower, unit)}, {quantity(upper, unit)}]"


def percent(value: float | None, signed: bool = True, digits: int = 1) -> str:
    """.006 -> +0.6%."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{100 * value:{'+' if signed else ''}.{digits}f}%".replace("-", "−")


def times(value: float | None) -> str:
    """3.2 -> 3.2×; from a million on 2.9 × 10¹²×."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value >= 999_500:
        return f"{scientific(value, 2)}×"
    return f"{significant(value, 2 if value < 100 else 3)}×"


def reach(values: Mapping[str, float] | None) -> str:
    """How far a prediction goes beyond the largest run: `12× in N, 3.1× in D`, or `within
    the range of the runs` when nothing goes beyond it."""
    if not values:
        return MISSING
    beyond = {name: value for name, value in values.items() if value > 1.0 + 1e-9}
    if not beyond:
        return "within the range of the runs"
    parts = (f"{times(value)} in {name}" for name, value in beyond.items())
    return ", ".join(parts) + " beyond the largest run"


def reach_short(values: Mapping[str, float] | None) -> str:
    """The same for a table's cell: `12× N, 3.1× D`, or `within the runs`."""
    if not values:
        return MISSING
    beyond = [f"{times(v)} {name}" for name, v in values.items() if v > 1.0 + 1e-9]
    return ", ".join(beyond) or "within the runs"


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """`3 min ago`. A moment without a time zone is read as UTC."""
    if moment is None:
        return MISSING
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    for size, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {word} ago"
    return "just now"


def parse(shown: str | None) -> float | None:
    """What people type into a form: `70B`, `1.4e12`, `5.76 × 10²³`, `1,000`; None if unreadable."""
    if shown is None:
        return None
    plain = shown.strip().replace(",", "").replace(" ", "").replace("_", "")
    head, cross, power = plain.partition("×10")
    if cross:
        plain = head + "e" + power.translate(_FROM_SUPERSCRIPT).lstrip("^")
    factor = 1.0
    if plain and plain[-1] in _FACTORS:
        factor, plain = _FACTORS[plain[-1]], plain[:-1]
    try:
        value = float(plain) * factor
    except ValueError:
        return None
    return value if math.isfinite(value) else None


FILTERS: dict[str, Callable[..., str]] = {
    "number": number,
    "quantity": quantity,
    "loss": loss,
    "percent": percent,
    "times": times,
    "reach": reach,
    "reach_short": reach_short,
    "ago": ago,
}
