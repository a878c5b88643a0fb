"""Figures from known numbers: what is drawn is what was given, with units, and ticks that show."""

import math

import numpy as np
import pytest

from app.dashboard import figures
from app.dashboard.figures import style
from app.dashboard.figures.values import Cloud, Line, Quantity
from app.dashboard.render import figure_json, for_script

N = Quantity("N", "parameters")
D = Quantity("D", "tokens")
LOSS = Quantity("loss", "nats/token")


def named(figure: object, name: str) -> object:
    return next(trace for trace in figure.data if trace.name == name)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("low", "high"), [(2.0, 4.1), (2.31, 2.55), (1e7, 1e11), (3e18, 2e23), (0.9, 1.1), (1, 1e15)]
)
def test_a_log_axis_has_ticks_that_can_be_read(low: float, high: float) -> None:
    ticks = style.log_ticks(low, high)
    assert 3 <= len(ticks) <= 12
    assert all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)


def test_every_axis_says_its_unit() -> None:
    figure = figures.fitted(Cloud(np.array([1e9]), np.array([2.0])), [], D, LOSS)
    assert figure.layout.xaxis.title.text == "D (tokens)"
    assert figure.layout.yaxis.title.text == "loss (nats/token)"
    assert figure.layout.xaxis.type == "log"


def test_nothing_is_sent_to_a_cloud() -> None:
    assert style.CONFIG["showSendToCloud"] is False
    assert style.CONFIG["plotlyServerURL"] == ""
    assert style.CONFIG["displayModeBar"] == "hover"
    assert style.TEMPLATE.layout.title.x == 0


def test_a_band_is_the_interval_it_was_given() -> None:
    x = np.array([1.0, 2.0, 4.0])
    line = Line(x, 3 / x, 2.5 / x, 3.5 / x, "N = 1B", 1e9)
    figure = figures.fitted(Cloud(x, 3 / x, np.full(3, 1e9)), [line], D, LOSS, N)
    band = figure.data[0]
    assert band.fill == "toself"
    assert list(band.y) == [*(3.5 / x), *(2.5 / x)[::-1]]
    assert "90% interval" in figure.data[1].hovertemplate


def test_residuals_are_drawn_in_percent_around_zero() -> None:
    figure = figures.residuals(
        Cloud(np.array([1e18, 1e19]), np.array([-0.5, 1.5])), Quantity("C", "FLOPs")
    )
    assert list(figure.data[0].y) == [-0.5, 1.5]
    low, high = figure.layout.yaxis.range
    assert low == -high and high > 1.5


def test_minima_without_an_interior_are_not_marked() -> None:
    x = np.geomspace(1e7, 1e9, 20)
    lines = [
        Line(x, 2 + 1e7 / x, label="1e18", shade=1e18),
        Line(x, 2 + 1e7 / x, label="1e19", shade=1e19, optimum=(1e8, 2.1)),
    ]
    figure = figures.isoflop(lines, Cloud(np.array([]), np.array([])), N, LOSS)
    minima = named(figure, "minimum of the law")
    assert list(minima.x) == [1e8]  # type: ignore[attr-defined]
    assert list(minima.y) == [2.1]  # type: ignore[attr-defined]


def test_a_forecast_is_a_hit_with_its_ends_included() -> None:
    rows = [
        figures.Forecast("inside", 2.0, 1.9, 2.1, 2.1),
        figures.Forecast("outside", 2.0, 1.9, 2.1, 2.1001),
        figures.Forecast("waiting", 2.0, 1.9, 2.1, None),
    ]
    figure = figures.forecasts(rows)
    assert list(named(figure, "actual, inside").x) == [2.1]  # type: ignore[attr-defined]
    assert list(named(figure, "actual, outside").x) == [2.1001]  # type: ignore[attr-defined]
    error = figure.data[0].error_x
    assert error.array == pytest.approx([0.1] * 3) and error.arrayminus == pytest.approx([0.1] * 3)


def test_two_forecasts_of_one_run_have_a_line_each() -> None:
    rows = [figures.Forecast("run", 2.0, 1.9, 2.1), figures.Forecast("run", 2.2, 2.1, 2.3)]
    assert len(set(figures.forecasts(rows).data[0].y)) == 2


def test_an_interval_that_is_almost_open_does_not_squeeze_the_others() -> None:
    rows = [figures.Forecast("wide", 2.0, 0.5, 2e11), figures.Forecast("run", 2.2, 2.1, 2.3, 2.4)]
    low, high = figures.forecasts(rows).layout.xaxis.range
    assert 0 < low < 0.5 and 4.0 < high < 5.0
    assert figures.forecasts(rows[1:]).layout.xaxis.range is None


def test_the_best_shape_is_named_beside_the_dots() -> None:
    width, depth = np.array([256.0, 512.0, 1024.0]), np.array([4.0, 8.0, 16.0])
    losses = np.full((3, 3), 3.0)
    losses[0, 2] = 2.5
    figure = figures.shapes(width, depth, losses, losses, losses, LOSS, (1024.0, 4.0), 0.001)
    (label,) = figure.layout.annotations
    assert label.text == "1024 × 4" and (10**label.x, 10**label.y) == pytest.approx((1024, 4))
    # the dots lie within a few pixels of the diamond: the label is led away, into the figure
    assert label.ax < -40 and label.ay < -40


def test_draws_show_at_most_six_parameters() -> None:
    names = [f"p{k}" for k in range(9)]
    values = np.random.default_rng(0).normal(1, 0.1, (500, 9))
    figure = figures.draws(names, values, dict.fromkeys(names, 1.0))
    histograms = [trace for trace in figure.data if trace.type == "histogram"]
    assert len(histograms) == 6
    assert len(histograms[0].x) == 300


def test_a_log_parameter_is_drawn_in_decades() -> None:
    figure = figures.draws(["A"], np.array([[10.0], [1000.0]]), {"A": 100.0}, log=["A"])
    assert list(figure.data[0].x) == [1.0, 3.0]


def test_a_run_has_its_strips() -> None:
    tokens = np.geomspace(1e3, 1e6, 50)
    figure = figures.run(
        figures.Curve("run", tokens, 3 * tokens**-0.1, np.full(50, 1e-3)),
        [figures.Evaluations("english", tokens[-1:], np.array([1.2]))],
        (tokens, np.ones(50)),
    )
    assert figure.data[0].name == "training loss"
    assert {trace.yaxis for trace in figure.data} == {"y", "y2", "y3"}
    assert figure.layout.xaxis3.title.text == "training tokens (tokens)"


def test_curves_take_their_colour_from_the_size() -> None:
    t = np.array([1.0, 10.0])
    lines = [figures.Curve(str(n), t, t**-0.1, shade=n) for n in (1e6, 1e7, 1e6)]
    figure = figures.curves(lines)
    drawn = [trace.line.color for trace in figure.data if trace.mode == "lines"]
    assert drawn[0] == drawn[2] != drawn[1]


def test_the_marks_of_a_valley() -> None:
    x = np.geomspace(1e8, 1e10, 50)
    figure = figures.valley(
        Line(x, 2 + np.log10(x / 1e9) ** 2), N, LOSS, (1e9, 2.0), (5e8, 2e9), 0.001, (3e9, 2.2)
    )
    texts = [trace.text[0] for trace in figure.data if trace.text]
    assert texts == ["N* = 1.00B", "this run: 3.00B"]


def test_figures_travel_as_json_that_no_script_element_can_be_left_with() -> None:
    figure = figures.forecasts([figures.Forecast("</script><script>alert(1)", 2.0, 1.9, 2.1)])
    document = str(for_script(figure_json(figure)))
    assert "</" not in document and "<script" not in document
    assert math.isclose(figure.data[0].x[0], 2.0)


def test_a_profile_meets_its_threshold_at_the_ends_of_its_interval() -> None:
    at = np.linspace(-2.0, 2.0, 9)
    valley = figures.Valley("alpha", 0.35, 0.35 + 0.01 * at, at**2, 2.7, 0.333, 0.366)
    figure = figures.profiles([valley, valley], 0.9)
    curve = named(figure, "profile")
    assert list(curve.y) == pytest.approx(np.abs(at))  # type: ignore[attr-defined]
    assert figure.layout.shapes[0].y0 == pytest.approx(math.sqrt(2.7))
    assert figure.layout.xaxis.title.text == "alpha"


def test_the_ranking_keeps_its_order_from_the_top() -> None:
    rows = [figures.Standing("tied", 0.003, 0.004), figures.Standing("kaplan", 0.06, 0.08)]
    figure = figures.ranking(rows)
    assert figure.layout.yaxis.autorange == "reversed"
    error = named(figure, "held-out error")
    assert list(error.y) == ["tied", "kaplan"]  # type: ignore[attr-defined]
    assert list(error.x) == pytest.approx([0.3, 6.0])  # type: ignore[attr-defined]


def test_values_at_the_ends_of_a_double_still_have_an_axis() -> None:
    """A stored point with N = 1e-300 made its page answer 500."""
    ticks = style.log_ticks(1e-300, 1e300)
    assert 3 <= len(ticks) <= 9
    far = np.array([1e-300, 1e9, 1e300])
    assert all(np.isfinite(style.axis(figures.Quantity("N", "parameters"), far)["range"]))
    assert np.isfinite(
        style.colour_bar(figures.Quantity("C", "FLOPs"), np.array([0.0, 1e20]))["color"]
    ).all()


def test_labels_keep_clear_of_what_they_stand_beside() -> None:
    losses = np.linspace(2.0, 4.0, 9)
    drawn = figures.task(
        Cloud(losses[3:], np.linspace(0.6, 0.25, 6)),
        Line(losses, np.linspace(0.8, 0.25, 9), label="curve"),
        0.25,
        Quantity("loss", "nats/token"),
        smallest=2.75,
    )
    (guessing,) = (a for a in drawn.layout.annotations if a.text.startswith("guessing"))
    # accuracies near chance are those of the largest losses, on the right
    assert guessing.x == 0 and guessing.xanchor == "left"

    def turning(step: float) -> str:
        losses = np.array([2.0, 1.8])
        falling = Line(np.array([1.0, 100.0]), losses, losses - 0.1, losses + 0.1, label="run")
        found = figures.transfer([], falling, start=1.9, turning=(step, 1.9))
        (mark,) = (t for t in found.data if t.name == "turning point")
        return str(mark.textposition)

    assert (turning(20.0), turning(90.0)) == ("top right", "bottom left")
