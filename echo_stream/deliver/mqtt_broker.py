"""Where the broker is, how it lets us in, and how it may fail us. Values only; any thread."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from echo_stream.errors import DeliveryError


class BrokerAway(DeliveryError):
    """No connection, or one that ended: worth trying again soon."""


class BrokerRefuses(DeliveryError):
    """The broker does not let us in, or we do not trust it: somebody must change something first."""


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

    def password(self) -> str | None:
        """The password, or None where no file is named.

        Raises:
            BrokerRefuses: The file cannot be read.
        """
        if self.password_file is None:
            return None
        try:
            lines = self.password_file.read_text(encoding="utf-8").splitlines()
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
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ValueError) as error:
            raise BrokerRefuses(
                f"a certificate or key for MQTT cannot be read: {error}",
                "check the files under mqtt.tls: PEM, readable by the daemon, key fits certificate",
            ) from error
        return context
