"""Log lines `time level [trace|component] message`: coloured on a terminal, JSON where PIXELIS_LOG_FORMAT=json."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import ClassVar


class LineFormatter(logging.Formatter):
    """Readable lines; colours only where `colour` is set."""

    COLOURS: ClassVar[dict[int, str]] = {
        logging.WARNING: "\x1b[33m",
        logging.ERROR: "\x1b[31m",
        logging.CRITICAL: "\x1b[31m",
    }

    def __init__(self, trace: str, component: str, *, colour: bool) -> None:
        super().__init__()
        self.trace, self.component, self.colour = trace, component, colour

    def format(self, record: logging.LogRecord) -> str:
        trace = getattr(record, "trace_id", self.trace)
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        line = f"{self.formatTime(record)} {record.levelname} [{trace}|{self.component}] {text}"
        colour = self.COLOURS.get(record.levelno, "") if self.colour else ""
        return f"{colour}{line}\x1b[0m" if colour else line


class JsonFormatter(LineFormatter):
    """One JSON object a line, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        trace = getattr(record, "trace_id", self.trace)
        fields = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "trace_id": trace,
            "component": self.component,
        }
        fields["message"] = record.getMessage()
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def configure_logging(*, trace: str, component: str, level: int = logging.INFO) -> None:
    """Send the root logger to standard error in the project's line format; call once per process."""
    as_json = os.environ.get("PIXELIS_LOG_FORMAT", "") == "json"
    handler = logging.StreamHandler(sys.stderr)
    formatter = JsonFormatter if as_json else LineFormatter
    handler.setFormatter(formatter(trace, component, colour=sys.stderr.isatty()))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "alembic", "mlflow", "matplotlib", "PIL", "urllib3", "filelock", "faiss"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
