"""Where each message goes: every topic by name. Pure; called from any thread."""

from __future__ import annotations

from dataclasses import dataclass

from echo_stream.core.errors import DeliveryError

MAX_TOPIC_BYTES = 65_535


@dataclass(frozen=True, slots=True)
class Topics:
    """Where each message goes: `<root>/<node>/<machine>/<what>`."""

    root: str
    node: str

    def __post_init__(self) -> None:
        for level in (*self.root.split("/"), self.node):
            _check_level(level)

    @property
    def status(self) -> str:
        """Whether the daemon of this node runs; also its last will."""
        return f"{self.root}/{self.node}/status"

    @property
    def flood(self) -> str:
        """Many alarms of this node's machines at once."""
        return f"{self.root}/{self.node}/flood"

    @property
    def health(self) -> str:
        """Whether all parts of this node's daemon work."""
        return f"{self.root}/{self.node}/health"

    @property
    def commands(self) -> str:
        """Filter that matches the command topics of all machines of this node."""
        return f"{self.root}/{self.node}/+/cmd"

    @property
    def transfer(self) -> str:
        """Where operators send files to this node, and ask for its own."""
        return f"{self.root}/{self.node}/transfer"

    @property
    def transferred(self) -> str:
        """What this node says of that, and the files that it sends."""
        return f"{self.root}/{self.node}/transferred"

    def of(self, machine: str, what: str) -> str:
        """Topic of one machine; `what`: alarm, event, score, and so on: see docs/mqtt.md."""
        _check_level(machine)
        return f"{self.root}/{self.node}/{machine}/{what}"


def _check_level(level: str) -> None:
    if not level or any(c in level for c in "/+#\0") or level.startswith("$"):
        raise DeliveryError(
            f"{level!r} cannot be a level of an MQTT topic",
            "node, machine ids and each level of topic_root: at least one character, none of / + # "
            "and no $ at the start",
        )
