"""Numbers as pages write them."""

from datetime import UTC, datetime, timedelta

import pytest

from app.dashboard import text


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (70e9, "parameters", "70.0B"),
        (1.4e12, "tokens", "1.40T"),
        (999.6e6, "parameters", "1.00B"),
        (256, "tokens", "256"),
        (5.76e23, "FLOPs", "5.76 × 10²³"),
        (0.3478, "", "0.348"),
        (-0.3478, "", "−0.348"),
        (1e-9, "", "1.00 × 10⁻⁹"),
        (-1e-9, "", "−1.00 × 10⁻⁹"),
        (None, "tokens", "–"),
        (float("nan"), "tokens", "–"),
        (float("inf"), "", "∞"),
        (0.0, "", "0"),
    ],
)
def test_quantity(value: float | None, unit: str, shown: str) -> None:
    assert text.quantity(value, unit) == shown


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("70B", 70e9),
        ("1.4T", 1.4e12),
        ("5.76e23", 5.76e23),
        ("5.76 × 10²³", 5.76e23),
        ("1,000", 1000.0),
        ("250k", 250e3),
        ("", None),
        ("a lot", None),
        ("nan", None),
        ("1e999", None),
        (None, None),
    ],
)
def test_parse(typed: str | None, value: float | None) -> None:
    assert text.parse(typed) == (value if value is None else pytest.approx(value, rel=1e-12))


@pytest.mark.parametrize("value", [3.14e7, 2.5e9, 8.1e11, 5.76e23])
def test_what_is_shown_can_be_typed_back(value: float) -> None:
    for unit in ("parameters", "FLOPs"):
        assert text.parse(text.quantity(value, unit, 4)) == pytest.approx(value, rel=1e-3)


def test_interval_loss_percent_times() -> None:
    assert text.interval(2.3712, 2.4551) == "[2.371, 2.455]"
    assert text.interval(51e9, 113e9, "parameters") == "[51.0B, 113B]"
    assert text.percent(0.006) == "+0.6%"
    assert text.percent(-0.0214) == "−2.1%"
    assert text.times(3.2) == "3.2×"
    assert text.times(876_000.0) == "876,000×" and text.times(2.94e12) == "2.9 × 10¹²×"
    assert text.interval(5568.0, 6144.0, "channels") == "[5,568, 6,144]"
    assert text.loss(None) == "–"


def test_reach_names_what_goes_beyond() -> None:
    assert text.reach({"N": 12.0, "D": 0.4}) == "12× in N beyond the largest run"
    assert text.reach({"N": 0.9, "D": 1.0}) == "within the range of the runs"
    assert text.reach({}) == "–"
    assert text.reach_short({"N": 3.25, "D": 0.1, "compute": 100.0}) == "3.2× N, 100× compute"
    assert text.reach_short({"N": 0.9}) == "within the runs"


def test_ago() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert text.ago(now - timedelta(seconds=30), now) == "just now"
    assert text.ago(now - timedelta(minutes=5), now) == "5 min ago"
    assert text.ago(now - timedelta(hours=7), now) == "7 h ago"
    assert text.ago(now - timedelta(days=3), now) == "3 d ago"
    assert text.ago(None, now) == "–"


def test_a_percentage_has_the_digits_that_are_asked_for() -> None:
    assert text.percent(-0.00264) == "−0.3%"
    assert text.percent(-0.00264, True, 2) == "−0.26%"
    assert text.percent(0.00264, False, 2) == "0.26%"
