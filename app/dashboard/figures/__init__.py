"""Figures: plain values in, a plotly `Figure` out.

One builder serves the page, the export and a notebook. Nothing here knows the database, a route or
a law by name: what the axes are called and which units they carry comes in as `Quantity`.

| figure | shows |
|---|---|
| `fitted` | measured points, the law through them, its interval |
| `residuals` | what the law leaves unexplained |
| `isoflop` | loss along each compute budget, with its minimum |
| `contour` | loss over (N, D) and the compute-optimal path with its uncertainty |
| `valley` | loss along one budget: how much a smaller model costs |
| `draws` | parameters of the resampled fits, pair by pair |
| `profiles` | how much worse the fit gets when a parameter is held elsewhere |
| `ranking` | laws by their forecasts of larger runs |
| `link` | one loss against another, with both floors, the band and what was held out |
| `task` | accuracy against loss, with the curve, its band and the level of guessing |
| `variance` | what the interval of a linked loss is made of |
| `run`, `curves` | one training run; many over each other |
| `overlay` | whole loss curves, the law through them, and the one of another schedule |
| `transfer` | one domain's loss since a transfer |
| `shapes` | loss over width and depth within one budget of time or money |
| `forecasts` | what was forecast and what came |
"""

from app.dashboard.figures.contour import Path, contour
from app.dashboard.figures.draws import draws
from app.dashboard.figures.fitted import fitted, residuals
from app.dashboard.figures.forecasts import Forecast, forecasts
from app.dashboard.figures.isoflop import isoflop, valley
from app.dashboard.figures.links import Share, link, variance
from app.dashboard.figures.profiles import Valley, profiles
from app.dashboard.figures.ranking import Standing, ranking
from app.dashboard.figures.runs import STEPS, TOKENS, Ahead, Curve, Evaluations, curves, run
from app.dashboard.figures.shapes import shapes
from app.dashboard.figures.tasks import task
from app.dashboard.figures.values import Cloud, Line, Quantity
from app.dashboard.figures.whole_curves import Overlaid, overlay, transfer

__all__ = [
    "STEPS",
    "TOKENS",
    "Ahead",
    "Cloud",
    "Curve",
    "Evaluations",
    "Forecast",
    "Line",
    "Overlaid",
    "Path",
    "Quantity",
    "Share",
    "Standing",
    "Valley",
    "contour",
    "curves",
    "draws",
    "fitted",
    "forecasts",
    "isoflop",
    "link",
    "overlay",
    "profiles",
    "ranking",
    "residuals",
    "run",
    "shapes",
    "task",
    "transfer",
    "valley",
    "variance",
]
