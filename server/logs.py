"""Log lines, as text or as JSON, each with the id of the request it belongs to."""

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import Literal

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        request = REQUEST_ID.get()
        line = f"{stamp} {record.levelname:7} {record.getMessage()}" + (f" [{request}]" if request else "")
        return line if not record.exc_info else f"{line}\n{self.formatException(record.exc_info)}"


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if (request := REQUEST_ID.get()) is not None:
            entry["request_id"] = request
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def configure(level: str, style: Literal["text", "json"]) -> None:
    """Send this process's log to standard error; vLLM keeps its own handlers unless JSON is asked for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    for name in ("decant", "uvicorn", *(["vllm"] if style == "json" else [])):
        log = logging.getLogger(name)
        log.handlers = [handler]
        log.propagate = False
    logging.getLogger("decant").setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
