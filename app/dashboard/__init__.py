"""The dashboard: server-rendered pages, figures in Python, one small script.

    app.include_router(app.dashboard.public_router)
    app.include_router(app.dashboard.router, dependencies=[...who may read...])
    app.include_router(app.dashboard.acting_router, dependencies=[...who may submit...])

`app.dashboard.figures` works in a notebook without a server.
"""

from app.dashboard.routes import acting_router, public_router, router
from app.dashboard.warm import warm_up

__all__ = ["acting_router", "public_router", "router", "warm_up"]
