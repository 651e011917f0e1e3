"""A receiver is sent events where no broker reaches: to a webhook, or by apprise to messengers and mail.

Each has an outbox of its own, as MQTT has, and a thread of its own: an event is on disk before the pipeline
goes on, it is sent until it is taken, and a receiver that is away holds up nobody. The URL is a secret: no
log, status or error names more of it than scheme and host.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from echo_stream import __version__
from echo_stream.config.schema import Config, NotifySettings
from echo_stream.core.errors import ConfigError, MissingExtra
from echo_stream.core.files import read_regular
from echo_stream.core.guard import GuardedThread
from echo_stream.core.log import get_logger
from echo_stream.mqtt.outbox import Outbox, steady_time
from echo_stream.mqtt.outbox_file import Row
from echo_stream.mqtt.payloads import Payload

TIMEOUT_S: Final = 10.0
RETRY_MIN_S: Final = 1.0
RETRY_MAX_S: Final = 300.0
LATE_S: Final = 30.0
"""What waited for longer is marked as delayed."""
URL_BYTES: Final = 4096
TRY_AGAIN: Final = (401, 403, 404, 407, 408, 421, 425, 429)
"""Answers below 500 that a person can mend without us: the event waits for it."""
_LOOK_S: Final = 60.0

log = get_logger()


class NotTaken(Exception):
    """The receiver is away, or does not take anything now; says why, without the URL."""


class Refused(Exception):
    """The receiver will never take this event; says why, without the URL."""


Send = Callable[[str, Payload], None]
"""Sends an event of a kind; raises NotTaken or Refused."""


def wanted(on: str, kind: str, payload: Mapping[str, Any]) -> bool:
    """Whether somebody who asked for `on` is told of this event."""
    if on == "all":
        return True
    if kind == "flood":
        return bool(on == "warning" and payload["active"])
    raised = kind == "event" and payload["to"] == "UNACK" and payload["active"] and not payload["merged"]
    return bool(raised and (on == "warning" or payload["level"] == "alarm"))


def build_receivers(config: Config) -> list[Receiver]:
    """All that the configuration names, not started yet.

    Raises:
        ConfigError, MissingExtra: one cannot be made.
    """
    return [
        Receiver(
            settings,
            config.state_dir,
            max_rows=config.outbox.max_rows,
            max_age_s=config.outbox.max_days * 86_400,
        )
        for settings in config.notify
    ]


class Receiver:
    """One receiver.

    Args:
        settings: Its URL, and what it is told.
        state_dir: Its outbox is kept there, under a name made of the URL.
        max_rows: Bound of the outbox.
        max_age_s: Likewise.
        retry_min_s: First wait before the next try; it doubles, with jitter, up to retry_max_s.
        retry_max_s: Longest wait.

    Raises:
        ConfigError, MissingExtra: as `sender`.
    """

    def __init__(
        self,
        settings: NotifySettings,
        state_dir: Path,
        *,
        max_rows: int = 100_000,
        max_age_s: float = 30 * 86_400.0,
        retry_min_s: float = RETRY_MIN_S,
        retry_max_s: float = RETRY_MAX_S,
    ) -> None:
        url = url_of(settings)
        self.name = shown(url)
        self._send = sender(url)
        self._on = settings.on
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        digest = hashlib.sha256(url.encode()).hexdigest()[:12]
        self._outbox = Outbox(state_dir / f"notify-{digest}.sqlite", max_rows=max_rows, max_age_s=max_age_s)
        self._sent = self._refused = self._failed = 0
        self.trouble = ""
        """Why the receiver takes nothing at present; empty where it does."""
        self._wake = Event()
        self._stop = Event()
        self.thread = GuardedThread(
            f"the notifications to {self.name}", self._work, self._stop, name="notify"
        )

    def start(self) -> None:
        """Begins to send."""
        self.thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Sends what waits where the receiver takes it; the rest is sent after the next start."""
        until_s = monotonic() + timeout_s
        while self._outbox.depth and not self.trouble and monotonic() < until_s:
            self._stop.wait(0.02)
        self._stop.set()
        self._wake.set()
        if self.thread.started:
            self.thread.join(max(0.1, until_s - monotonic()))
        if not self.thread.alive:
            self._outbox.close()

    def take(self, kind: str, payload: Payload) -> None:
        """Keeps an event, if it is wanted: on disk when this returns. Any thread."""
        if wanted(self._on, kind, payload):
            self._outbox.put(str(payload.get("machine", "")), kind, payload, now_s=steady_time(), key=kind)
            self._wake.set()

    def to_json(self) -> dict[str, Any]:
        """How it stands, for status and metrics; any thread."""
        return {
            "to": self.name,
            "on": self._on,
            "waiting": self._outbox.depth,
            "sent": self._sent,
            "refused": self._refused,
            "failed": self._failed,
            "dropped": self._outbox.dropped,
            "trouble": self.trouble or self._outbox.trouble,
        }

    # The thread of this receiver.

    def _work(self) -> None:
        wait_s, look_at_s = self._retry_min_s, 0.0
        while not self._stop.is_set():
            self._wake.clear()
            if self._outbox.maintenance_due or monotonic() >= look_at_s:
                look_at_s = monotonic() + _LOOK_S
                self._outbox.maintain(steady_time())
            rows = self._outbox.pending(limit=1)
            if not rows:
                self._wake.wait(_LOOK_S)
            elif self._deliver(rows[0]):
                wait_s = self._retry_min_s
            else:
                self._stop.wait(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                wait_s = min(2 * wait_s, self._retry_max_s)

    def _deliver(self, row: Row) -> bool:
        """Whether the receiver is done with it."""
        payload = dict(row.payload)
        if "delayed" in payload:
            payload["delayed"] = steady_time() - row.put_at_s > LATE_S
        try:
            self._send(row.topic, payload)
        except NotTaken as error:
            self._failed += 1
            if not self.trouble:
                log.warning(
                    "a notification waits: its receiver does not take it", to=self.name, reason=str(error)
                )
            self.trouble = str(error)
            return False
        except Refused as error:
            self._refused += 1
            event_id = payload.get("event_id")
            log.error("a notification is given up", to=self.name, reason=str(error), event_id=event_id)
        else:
            self._sent += 1
        if self.trouble:
            log.info("the receiver takes notifications again", to=self.name, failed=self._failed)
        self.trouble = ""
        self._outbox.ack([row.id])
        return True


def url_of(settings: NotifySettings) -> str:
    """The URL, from its file where it stands in one.

    Raises:
        ConfigError: the file cannot be read, or its first line is empty.
    """
    if settings.url_file is None:
        return settings.url or ""
    try:
        lines = read_regular(settings.url_file, URL_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(
            f"{settings.url_file}: the URL cannot be read: {reason}",
            "check notify[].url_file and who may read it",
        ) from None
    if not lines or not lines[0].strip():
        raise ConfigError(f"{settings.url_file}: its first line is empty", "write the URL there")
    return lines[0].strip()


def shown(url: str) -> str:
    """What may be said of a URL: of a webhook the host; of apprise's only the scheme."""
    parts = _split(url)
    return f"{parts.scheme}://{parts.hostname}" if parts.scheme in ("http", "https") else f"{parts.scheme}:"


def sender(url: str) -> Send:
    """What sends to a URL: a webhook for http and https, apprise for all others.

    Raises:
        ConfigError: apprise does not know it.
        MissingExtra: apprise is not installed.
    """
    return _webhook(url) if _split(url).scheme in ("http", "https") else _apprise(url)


def _split(url: str) -> Any:
    """Raises ConfigError where it is no URL; without it in the text."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    web = parts.scheme in ("http", "https")
    if (
        not parts.scheme
        or "://" not in url
        or (web and not parts.hostname)
        or not url.isprintable()
        or " " in url
    ):
        raise ConfigError(
            "notify: this is no URL (it is not shown, it may be a secret)",
            "expected https://..., http://..., or one that apprise knows, such as tgram://TOKEN/CHAT",
        )
    return parts


class _NoRedirect(HTTPRedirectHandler):
    """A redirected POST would become a GET without the event."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _webhook(url: str) -> Send:
    parts = _split(url)
    headers = {"Content-Type": "application/json", "User-Agent": f"echo-stream/{__version__}"}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
    opener = build_opener(_NoRedirect)

    def send(_kind: str, payload: Payload) -> None:
        body = json.dumps(payload, separators=(",", ":")).encode()
        more = {"Idempotency-Key": str(payload.get("event_id", ""))}
        request = Request(bare, data=body, headers=headers | more, method="POST")  # noqa: S310 - http by _split
        try:
            with opener.open(request, timeout=TIMEOUT_S):
                pass
        except HTTPError as error:
            error.close()
            said = f"it answers {error.code}"
            never = 400 <= error.code < 500 and error.code not in TRY_AGAIN
            raise (Refused if never else NotTaken)(said) from None
        except URLError as error:
            raise NotTaken(str(error.reason)) from None
        except (OSError, HTTPException, ValueError) as error:
            raise NotTaken(type(error).__name__) from None

    return send


def _apprise(url: str) -> Send:
    logging.getLogger("apprise").disabled = True  # its lines name URLs
    try:
        from apprise import Apprise  # noqa: PLC0415 - only who wants it pays
    except ModuleNotFoundError:
        raise MissingExtra(f"notify to {shown(url)}", "notify") from None
    messenger = Apprise()
    if not messenger.add(url):
        raise ConfigError(
            f"notify: apprise cannot use this URL of scheme {shown(url)}",
            "see github.com/caronc/apprise/wiki for what each service expects",
        )

    def send(kind: str, payload: Payload) -> None:
        title, body = to_text(kind, payload)
        try:
            taken = messenger.notify(title=title, body=body)
        except Exception as error:  # noqa: BLE001 - a hundred services raise what they like
            raise NotTaken(f"apprise: {type(error).__name__}") from None
        if not taken:
            raise NotTaken("apprise could not deliver it")

    return send


def to_text(kind: str, payload: Mapping[str, Any]) -> tuple[str, str]:
    """Title and text of an event, for people."""
    machine, late = payload.get("machine") or payload.get("node", ""), payload.get("delayed")
    if kind == "event":
        title = f"{machine}: {payload['level']}" + ("" if payload["active"] else " is over")
        bands: Sequence[Sequence[float]] = payload["evidence"]["bands_hz"]
        most = f"most of it at {bands[0][0]:.0f} to {bands[0][1]:.0f} Hz" if bands else ""
        said = [f"{payload['from']} to {payload['to']} ({payload['cause']})", payload.get("why"), most]
    else:
        title = f"{machine}: {kind}" + (" is over" if payload.get("active") is False else "")
        known = {"to", "bank", "median", "announcements"} & payload.keys()
        said = [f"{key} {payload[key]}" for key in sorted(known) if payload[key] is not None]
    at = f"{payload['ts'][:19].replace('T', ' ')} UTC" + (" (delayed)" if late else "")
    return title, "\n".join(filter(None, [*said, at]))
