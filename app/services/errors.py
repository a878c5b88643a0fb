"""What services raise. It stands in `app/errors.py`, where importers reach it too."""

from app.errors import KINDS, Kind, ServiceError, not_found, shortened

__all__ = ["KINDS", "Kind", "ServiceError", "not_found", "shortened"]
