"""Jobs."""

from datetime import datetime
from typing import Any

from pydantic import Field

from app.api.schemas.common import Timed


class JobOut(Timed):
    id: int
    project_id: int | None
    kind: str
    status: str
    progress: float
    message: str
    result: dict[str, Any] | None = Field(description="Where the outcome is; or the refusal.")
    stop_requested: bool
    updated_at: datetime
