"""How a log line looks: one line per event on stderr, for people or as JSON, with the request it belongs to.

2026-01-02 03:04:05,678 INFO    localllm.scheduler.loop: 3f9a1c2e guide: loading
{"time": "2026-01-02T03:04:05.678Z", "level": "INFO", "logger": "…", "message": "…", "request_id": "3f9a1c2e"}
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

# The id of the request that this task, or the one that started it, answers; "" outside of requests.
request_id: ContextVar[str] = ContextVar("request_id", default="")


def set_up_logging(level: str, log_format: Literal["human", "json"] = "human") -> None:
    """Send every log record at `level` or above to stderr. Called once, by a process's entry point."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line tells them: do not ask
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _HumanFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


# What a client sends is logged, and must neither begin a line of its own nor move a terminal's cursor.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


class _HumanFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(request)s%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        known = request_id.get()
        record.request = f"{known} " if known else ""
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        record.message = record.message.translate(_CONTROLS)
        return super().formatMessage(record)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if known := request_id.get():
            line["request_id"] = known
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
