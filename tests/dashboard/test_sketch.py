"""Curves drawn in the page itself, before any script."""

import re
from xml.etree import ElementTree

import numpy as np
import plotly.graph_objects as go
from fastapi.testclient import TestClient

from app.dashboard import figures
from app.dashboard.sketch import sketch
from tests.dashboard.seeded import Seeded

TOKENS = np.geomspace(1e6, 1e10, 200)
LOSS = 1.7 + 30 * TOKENS**-0.2


def drawn(**more: object) -> ElementTree.Element:
    curve = figures.Curve("a run", TOKENS, LOSS, np.full(200, 1e-3))
    return ElementTree.fromstring(sketch(figures.run(curve, **more)))  # type: ignore[arg-type]


def test_its_lines_are_the_data() -> None:
    """Read back from the path: a straight line in the logarithms, to a tenth of a unit."""
    first = drawn().findall(".//path")[0]
    assert first.get("stroke") == figures.style.ACCENT
    at = np.array([float(word) for word in re.findall(r"[-\d.]+", first.get("d") or "")])
    x, y = at.reshape(-1, 2).T
    assert len(x) == 200
    for place, values in ((x, TOKENS), (-y, LOSS)):
        slope, offset = np.polyfit(np.log10(values), place, 1)
        assert slope > 0
        assert np.abs(slope * np.log10(values) + offset - place).max() < 0.11
    assert x.min() > 0 and x.max() < 1000 and y.min() > 0 and y.max() < 1000


def test_labels_stand_where_plotly_puts_them() -> None:
    said = [text.text for text in drawn().findall(".//text[@class='x']")]
    assert said == ["1M", "10M", "100M", "1B", "10B"]
    titles = [text.text for text in drawn().findall(".//text[@class='title']")]
    assert titles == ["loss (nats/token)", "LR", "‖grad‖"]


def test_every_series_is_there() -> None:
    tested = figures.Evaluations("code <b>", TOKENS[::50], LOSS[::50])
    svg = drawn(evaluations=[tested], spikes=(TOKENS[100:101], LOSS[100:101] + 1))
    assert "validation: code <b>" in "".join(svg.itertext()), "escaped, and read back"
    dotted = [one for one in svg.iter("path") if one.get("stroke-linecap")]
    assert [len(re.findall("M", one.get("d") or "")) for one in dotted] == [4, 1]
    many = figures.curves([figures.Curve(str(k), TOKENS, LOSS + k, shade=10.0**k) for k in (6, 8)])
    lines = [one for one in ElementTree.fromstring(sketch(many)).iter("path")]
    assert len({one.get("stroke") for one in lines}) == 2


def test_gaps_are_gaps_and_nothing_is_nothing() -> None:
    holed = LOSS.copy()
    holed[90:110] = np.nan
    line = ElementTree.fromstring(sketch(figures.run(figures.Curve("a", TOKENS, holed))))
    assert (line.findall(".//path")[0].get("d") or "").count("M") == 2
    assert sketch(go.Figure()) == ""
    assert sketch(go.Figure(go.Contour(z=[[1, 2], [3, 4]]))) == ""


def test_pages_of_runs_carry_it(pages: TestClient, seeded: Seeded) -> None:
    for address in (f"/runs/{seeded.run_ids[0]}", f"/runs/{seeded.live_run_id}"):
        shown = pages.get(address).text
        found = re.search(r'<svg class="sketch".*?</svg></div>', shown, re.S)
        assert found is not None and "<path" in found[0]
        assert "<script" not in found[0]
