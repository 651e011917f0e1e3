"""How the program speaks to its operator: one line an occurrence, on stderr. Any thread may log.

On a terminal the lines are for eyes; elsewhere each is a JSON object. Where stderr is the journal, a priority
stands before it (sd-daemon(3)), so that `journalctl -p warning` finds what matters.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

from echo_stream.core.log import structlog

_LEVELS = ("debug", "info", "warning", "error", "critical")
_PRIORITY = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
_SECRET = ("password", "passwd", "secret", "token", "credential")


def configure(json: bool | None = None, level: str = "info") -> None:
    """Sets structlog up for the whole process, and what libraries send to `logging` goes the same way.

    Args:
        json: JSON lines (True) or lines for a terminal (False); None decides by what stderr is.
        level: debug, info, warning, error or critical: what is less is not said.

    Raises:
        ValueError: the level is none of these.
    """
    if level not in _LEVELS:
        raise ValueError(f"log level {level!r} is none of {', '.join(_LEVELS)}")
    stream = sys.stderr
    as_json = not stream.isatty() if json is None else json
    threshold = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts" if as_json else "timestamp"),
            structlog.processors.StackInfoRenderer(),
            mask_secrets,
            _keep_line,
            *(_json_lines(stream) if as_json else _console_lines(stream)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,  # loggers made at import time must follow a later configure()
    )
    root = logging.getLogger()
    root.handlers = [_ToStructlog()]
    root.setLevel(max(threshold, logging.WARNING))  # of libraries only what is wrong
    threading.excepthook = _thread_failed


_recent: deque[dict[str, str]] = deque(maxlen=0)


def keep_recent(lines: int) -> None:
    """From now on the last lines are kept in memory too, for the page."""
    global _recent  # noqa: PLW0603 - the log is one for the process
    _recent = deque(_recent, maxlen=lines)


def recent_lines() -> list[dict[str, str]]:
    """The last lines, oldest first, each by key; no secret is in them. Any thread."""
    while True:
        try:
            return list(_recent)
        except RuntimeError:  # another thread logs meanwhile
            continue


def _keep_line(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if _recent.maxlen:
        kept = {key: str(value)[:2000] for key, value in event.items() if key not in {"exc_info", "stack"}}
        kept["ts"] = kept.pop("timestamp", kept.get("ts", ""))
        failure = event.get("exc_info")
        if failure:  # not the exception itself: it would keep its frames alive
            error = (
                sys.exc_info()[1]
                if failure is True
                else failure[1]
                if isinstance(failure, tuple)
                else failure
            )
            kept["error"] = f"{type(error).__name__}: {error}"[:2000]
        _recent.append(kept)
    return event


def mask_secrets(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor: the value of whatever is named like a secret is not written."""
    for key, value in event.items():
        if value and any(word in key.lower() for word in _SECRET) and not key.lower().endswith("_file"):
            event[key] = "***"
    return event


def _json_lines(stream: TextIO) -> list[structlog.types.Processor]:
    render = structlog.processors.JSONRenderer(default=str, ensure_ascii=False)
    last = _prioritised(render) if _is_journal(stream, os.environ) else render
    return [structlog.processors.format_exc_info, last]


def _console_lines(stream: TextIO) -> list[structlog.types.Processor]:
    plain = structlog.dev.plain_traceback  # the pretty one imports rich, and shows the values of locals
    return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]


def _prioritised(render: structlog.processors.JSONRenderer) -> structlog.types.Processor:
    def rendered(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        priority = _PRIORITY.get(str(event.get("level")), 6)
        return f"<{priority}>{render(logger, method, event)!s}"

    return rendered


def _is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether the journal reads this stream: systemd gives its device and inode (systemd.exec(5))."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # not a file, or closed
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    """An error that nobody caught is one line too, not twenty without a priority."""
    if args.exc_type is not SystemExit and args.exc_value is not None:
        name = args.thread.name if args.thread else ""
        structlog.get_logger().critical("a thread failed", thread=name, exc_info=args.exc_value)


class _ToStructlog(logging.Handler):
    """What a library logs becomes a line like ours."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname.lower() if record.levelname.lower() in _LEVELS else "info"
        logger = structlog.get_logger(library=record.name)
        getattr(logger, level)(record.getMessage(), exc_info=record.exc_info or None)
