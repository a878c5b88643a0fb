"""Projects."""

from pydantic import ConfigDict, Field

from app.api.schemas.common import Name, Request, Timed


class ProjectIn(Request):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "ladder-2026", "description": "Muon, byte-level"}]}
    )

    name: Name
    description: str = Field(default="", max_length=10_000)


class ProjectOut(Timed):
    id: int
    name: str
    description: str
    runs: int = Field(description="Runs of any status.")
    finished_runs: int
    fits: int
    sweeps: int
    forecasts: int
