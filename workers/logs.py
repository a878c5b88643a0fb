"""One JSON object a line on stderr, also from the libraries; passwords in addresses are cut out."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_PASSWORD = re.compile(r"(\w+://[^:/@\s]+):[^@\s]+@|(password=)\S+", re.IGNORECASE)


def without_secrets(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """structlog processor: `postgresql://me:secret@host` becomes `postgresql://me:***@host`."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _PASSWORD.sub(_blank, value)
    return event


def _blank(match: re.Match[str]) -> str:
    return f"{match[1]}:***@" if match[1] else f"{match[2]}***"


def configure(level: str = "info") -> None:
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        without_secrets,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # one line per delivery and per heartbeat is more than anybody reads
    logging.getLogger("procrastinate").setLevel(logging.WARNING)
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    # at debug these write down what they sign, a session's token included
    for name in ("botocore", "aiobotocore", "s3fs", "fsspec", "urllib3", "aiohttp"):
        logging.getLogger(name).setLevel(logging.WARNING)
