"""Structured logs, if PERCEPT_LOG asks for them: one JSON object per line, for requests and everything else."""

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any

from service.http.request import Request, Response

VARIABLE = "PERCEPT_LOG"

requests = logging.getLogger("percept.requests")


class JSONFormatter(logging.Formatter):
    """A record as one JSON object: time, level, logger, message or a request's fields, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        line |= getattr(record, "fields", None) or {"message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")  # else a path or a label may not be written
        return json.dumps(line, ensure_ascii=not is_unicode, default=str)


def wanted() -> bool:
    """Whether PERCEPT_LOG is json. Raises ValueError if it is anything else."""
    text = os.environ.get(VARIABLE, "")
    if text not in ("", "json"):
        raise ValueError(f"{VARIABLE}={text}: expected json")
    return text == "json"


def set_up() -> None:
    """Write all records, including one for each request, to standard output as JSON."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JSONFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    for name in ("bentoml", "circus", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    requests.setLevel(logging.INFO)


def request(request: Request, request_id: str, route: str, response: Response, seconds: float) -> None:
    """Log a request and its response."""
    client = request.scope.get("client") or ("", 0)
    fields = {
        "request_id": request_id,
        "client": client[0],
        "method": request.method,
        "route": route,
        "path": request.path[:200],
        "status": response.status,
        "seconds": round(seconds, 6),
        **(response.log or {}),
    }
    requests.info("", extra={"fields": fields})
