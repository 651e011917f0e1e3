"""A broker is where messages go: its address, its secrets, and why it does not take ours."""

from __future__ import annotations

import ssl
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from echo_stream.core.errors import DeliveryError

MAX_IN_FLIGHT = 20
MAX_PACKET_BYTES = 268_435_460
"""The most that MQTT can say."""
_SHORT_SESSION_S = 15
_MAX_FILE_BYTES = 1024 * 1024
_NOT_YET_VALID, _EXPIRED = 9, 10
"""OpenSSL: X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED."""


class BrokerAway(DeliveryError):
    """No connection, or one that ended: worth trying again soon."""


class BrokerSilent(BrokerAway):
    """It is reached and answers nothing to CONNECT: it is busy, or does not know this protocol (amqtt)."""


class BrokerRefuses(DeliveryError):
    """The broker does not let us in, or we do not trust it: somebody must change something first."""


class BrokerLacks(BrokerRefuses):
    """The broker refuses a will that is retained, or one of QoS 1: worth trying at once without.

    Args:
        message: What it said.
        without: How to connect instead.
    """

    def __init__(self, message: str, without: Concessions) -> None:
        super().__init__(message, "use a broker that keeps retained messages and knows QoS 1")
        self.without = without


@dataclass(frozen=True, slots=True)
class Concessions:
    """What a connection does without, because the broker does not have it."""

    retained: bool = True
    """States are kept for who comes later."""
    qos: int = 1
    """0: nothing is acknowledged, so that a message can be lost on the way."""


EVERYTHING = Concessions()
"""A broker that knows all of MQTT 5 that we use."""


@dataclass(slots=True)
class Limits:
    """What the broker allows on this connection (CONNACK of MQTT 5; 3.1.1 has no word for it)."""

    in_flight: int = MAX_IN_FLIGHT
    """QoS 1 messages that may be under way at a time."""
    packet_bytes: int = MAX_PACKET_BYTES
    """Largest packet."""
    qos: int = 1
    retained: bool = True
    wildcards: bool = True
    """Subscriptions may hold + and #."""
    session_expiry_s: int | None = None
    """How long it keeps our session, where that is not what was asked for."""
    keepalive_s: int | None = None
    """How often it wants to hear from us, where that is not what was asked for; paho does so."""

    @property
    def lacks(self) -> list[str]:
        """What the daemon will do without, in sentences."""
        found = []
        if not self.retained:
            found.append("the broker keeps no retained messages: states are sent again every minute")
        if self.qos < 1:
            found.append("the broker knows only QoS 0: an event that is lost on the way is not sent again")
        if self.packet_bytes < MAX_PACKET_BYTES:
            found.append(
                f"the broker takes at most {self.packet_bytes} bytes a packet: larger ones are not sent"
            )
        if not self.wildcards:
            found.append("the broker knows no wildcards: each machine's commands are subscribed by name")
        if self.session_expiry_s is not None and self.session_expiry_s < _SHORT_SESSION_S:
            found.append(
                f"the broker keeps a session for {self.session_expiry_s} s only: it says offline that soon "
                "after an interruption, and a command that comes meanwhile is lost"
            )
        return found


class BrokerTooOld(BrokerRefuses):
    """The broker does not speak MQTT 5."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and how it lets us in. Files are read anew at every connection."""

    host: str
    port: int = 1883
    username: str | None = None
    password_file: Path | None = None
    """The password is its first line."""
    tls: bool = False
    ca_file: Path | None = None
    """PEM; without it, the system's authorities."""
    cert_file: Path | None = None
    """PEM; for a broker that asks for the client's certificate."""
    key_file: Path | None = None
    keepalive_s: int = 30
    connect_timeout_s: float = 5.0

    @property
    def address(self) -> str:
        """HOST:PORT, for people."""
        return f"{self.host}:{self.port}"

    def password(self) -> str | None:
        """The password, or None where no file is named.

        Raises:
            BrokerRefuses: The file cannot be read.
        """
        if self.password_file is None:
            return None
        try:
            # Editors on Windows put a byte order mark in front.
            lines = _plain_file(self.password_file).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BrokerRefuses(
                f"the MQTT password file cannot be read: {error}",
                "check mqtt.password_file and who may read it",
            ) from error
        return lines[0] if lines else ""

    def tls_context(self) -> ssl.SSLContext | None:
        """What TLS needs, or None where it is off.

        Raises:
            BrokerRefuses: A certificate or key cannot be read.
        """
        if not self.tls:
            return None
        try:
            for named in filter(None, (self.ca_file, self.cert_file, self.key_file)):
                _plain_file(named)
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ValueError) as error:
            raise BrokerRefuses(
                f"a certificate or key for MQTT cannot be read: {error}",
                "check the files under mqtt.tls: PEM, readable by the daemon, key fits certificate",
            ) from error
        return context


def _plain_file(path: Path) -> Path:
    """The path of a file that can be read without waiting: no pipe, no device.

    Raises:
        OSError: It is something else, or is not there.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is no plain file")
    if found.st_size > _MAX_FILE_BYTES:
        raise OSError(f"{path} has {found.st_size} bytes, at most {_MAX_FILE_BYTES} are read")
    return path


def untrusted(where: str, error: ssl.SSLCertVerificationError) -> BrokerRefuses:
    """Why we do not trust a broker's certificate, with a hint that leads to the cause."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    hints = {
        _NOT_YET_VALID: f"this PC's clock says {now}: set the clock if that is wrong (no battery, no time "
        "server?), or give the broker a certificate that is valid already; it is tried again by itself",
        _EXPIRED: f"renew the broker's certificate; or set the clock of this PC, if its date {now} is wrong",
    }
    hint = hints.get(
        error.verify_code,
        "mqtt.tls.ca_file must hold the authority that signed it, and it must name this host",
    )
    return BrokerRefuses(f"the certificate of {where} is not trusted: {error.verify_message}", hint)
