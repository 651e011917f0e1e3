"""The publisher: what the daemon wants said, said to the broker, however often the broker goes away.

The pipeline's thread calls event, set_alarm, score, health and set_available: they put a row into the outbox
or replace a value, and return. The publisher's one thread (link.py) does all the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from echo_stream import __version__
from echo_stream.core.guard import GuardedThread
from echo_stream.core.log import get_logger
from echo_stream.mqtt.broker import Broker, Concessions
from echo_stream.mqtt.commands import Command
from echo_stream.mqtt.connection import Connection, Protocol, Will
from echo_stream.mqtt.homeassistant import discovery, discovery_topic, node_discovery
from echo_stream.mqtt.inbox import Inbox
from echo_stream.mqtt.link import Link
from echo_stream.mqtt.mailbox import Mailbox
from echo_stream.mqtt.outbox import Outbox, steady_time
from echo_stream.mqtt.payloads import OFFLINE, ONLINE, Payload
from echo_stream.mqtt.speeds import Speed, Speeds, SpeedTopic
from echo_stream.mqtt.topics import Topics

_SESSION_EXPIRY_S = 60
Kind = Literal["event", "evidence", "sensor", "drift", "flood", "enrolled"]
"""What goes through the outbox; the last level of its topic."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class Counters:
    """How delivery stands, for metrics."""

    connected: bool
    published: int
    """Events that the broker acknowledged since the start."""
    dropped: int
    """Events that a full outbox gave up since the start."""
    outbox_depth: int
    """Events that wait for their acknowledgement."""
    outbox_unsaved: int
    """Of these, events that the disk did not take."""
    connections: int
    """Times that the broker let us in since the start."""
    last_error: str
    """Why the connection is away, or was last; empty where it never was."""


class Publisher:
    """The MQTT side of the daemon.

    Args:
        broker: Where the broker is and how it lets us in.
        node: Name of this PC in the topics.
        machines: Id and name of each machine that is there from the start; see `add_machine`.
        assets: Where machines stand, by id; see `add_machine`.
        measures: What is measured of them in physical units, by id; see `add_machine`.
        speeds: Where the speed of a machine is published, by its id; see `set_speeds`.
        outbox_path: Where events wait until they are acknowledged.
        topic_root: First levels of all topics.
        protocol: 5, falling back to 3 (3.1.1) where the broker refuses it, or 3.
        outbox_max_rows: Bound of the outbox.
        outbox_max_age_s: Bound of the outbox.
        will_delay_s: How long we may be away before the broker says that we are offline (MQTT 5; 3.1.1 does
            so at once).
        discovery_prefix: Home Assistant's, usually `homeassistant`; None tells it nothing.
        page: Address of the page, where others can reach it; Home Assistant links to it.
        birth_delay_s: When Home Assistant starts, discovery is sent again within this time.
        score_interval_s: At most one score of a machine in this time.
        score_expiry_s: When the broker forgets a score that it could not deliver (MQTT 5).
        retry_min_s: First wait before connecting again; it doubles, with jitter, up to retry_max_s.
        retry_max_s: Longest wait while the broker is away.
        refused_retry_s: Wait after the broker refused us.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        node: str,
        machines: Mapping[str, str],
        outbox_path: Path,
        assets: Mapping[str, Mapping[str, str]] | None = None,
        measures: Mapping[str, Collection[str]] | None = None,
        speeds: Mapping[str, SpeedTopic] | None = None,
        page: str | None = None,
        topic_root: str = "echo-stream",
        protocol: Protocol = 5,
        outbox_max_rows: int = 100_000,
        outbox_max_age_s: float = 30 * 86_400.0,
        will_delay_s: int = 15,
        discovery_prefix: str | None = None,
        birth_delay_s: float = 10.0,
        score_interval_s: float = 1.0,
        score_expiry_s: int = 30,
        retry_min_s: float = 1.0,
        retry_max_s: float = 60.0,
        refused_retry_s: float = 60.0,
    ) -> None:
        self.topics = Topics(topic_root, node)
        self.outbox = Outbox(outbox_path, max_rows=outbox_max_rows, max_age_s=outbox_max_age_s)
        self._broker = broker
        self._machines: dict[str, str] = {}
        self._assets: dict[str, Payload] = {}
        self._page = page
        self._discovery_prefix = discovery_prefix
        self._score_shown_s = max(60.0, 3 * score_interval_s)
        self._score_expiry_s = score_expiry_s
        self._will = Will(self.topics.status, OFFLINE, will_delay_s)
        self._mailbox = Mailbox(score_interval_s)
        self._speeds = Speeds(speeds or {})
        self._inbox = Inbox(
            self.topics,
            self._machines,
            self._mailbox,
            self._speeds,
            discovery_prefix=discovery_prefix,
            birth_delay_s=birth_delay_s,
        )
        self._link = Link(
            self._connect,
            broker.address,
            self.outbox,
            self._mailbox,
            self._inbox,
            offline_topics=self._offline_topics,
            protocol=protocol,
            retry_min_s=retry_min_s,
            retry_max_s=retry_max_s,
            refused_retry_s=refused_retry_s,
        )
        self._mailbox.set_state(self.topics.status, ONLINE)
        if discovery_prefix is not None:
            found = node_discovery(self.topics, version=__version__, page=page)
            self._mailbox.set_state(
                discovery_topic(discovery_prefix, self.topics, None), _json(found), optional=True
            )
        for machine, name in machines.items():
            self.add_machine(machine, name, (assets or {}).get(machine), (measures or {}).get(machine, ()))

    # What the daemon calls. None of it waits for the network, none of it raises because of it.

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._link.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Send what waits, say offline, disconnect, all within `timeout_s`; whether all events were sent."""
        self._link.stop(timeout_s)
        if self._link.alive:
            log.warning("the publisher did not stop in time", timeout_s=timeout_s)
            self.outbox.report_unsaved()
            return False
        self.outbox.close()
        self._mailbox.close()
        return self.outbox.depth == 0

    def add_machine(
        self, machine: str, name: str, asset: Mapping[str, str] | None = None, measures: Collection[str] = ()
    ) -> None:
        """A machine is watched from now on: offline until `set_available`, known to Home Assistant.

        One that is watched already is known otherwise from now on.

        Args:
            machine: Its id.
            name: What people call it.
            asset: Where it stands (site, area, line): goes into all of its payloads.
            measures: Names of what its health says in physical units.
        """
        if machine not in self._machines:
            self.set_available(machine, False)
        self._machines[machine] = name
        self._assets[machine] = {"asset": dict(asset)} if asset else {}
        if self._discovery_prefix is not None:
            found = discovery(
                self.topics,
                machine,
                name=name,
                version=__version__,
                score_expires_s=self._score_shown_s,
                page=self._page,
                area=(asset or {}).get("area"),
                measures=measures,
            )
            self._mailbox.set_state(
                discovery_topic(self._discovery_prefix, self.topics, machine), _json(found), optional=True
            )

    def remove_machine(self, machine: str) -> None:
        """A machine is watched no more: offline, its retained states and its discovery are removed."""
        self._machines.pop(machine, None)
        self.set_available(machine, False)
        removed = [self.topics.of(machine, what) for what in ("alarm", "health", "image", "bank")]
        if self._discovery_prefix is not None:
            removed.append(discovery_topic(self._discovery_prefix, self.topics, machine))
        for topic in removed:
            self._mailbox.set_state(topic, "")

    def next_seq(self, machine: str) -> int:
        """The sequence number for the next event of a machine."""
        return self.outbox.next_seq(machine)

    def event(self, kind: Kind, payload: Payload, *, snapshot: dict[str, Any] | None = None) -> None:
        """Something that must not be lost: on disk when this returns, then sent until acknowledged.

        Args:
            kind: What it is: which builder of payloads.py made it.
            payload: What that made.
            snapshot: State of the machine's alarm after it, for `outbox.snapshot` after a restart; kept in
                the same transaction.
        """
        machine = payload.get("machine", "")
        payload = self.placed(payload)
        topic = self.topics.of(machine, kind) if machine else self.topics.flood
        key = f"{kind} {payload.get('level', '')}"
        self.outbox.put(machine, topic, payload, now_s=steady_time(), key=key, snapshot=snapshot)
        self._mailbox.wake()

    def set_alarm(self, machine: str, payload: Payload) -> None:
        """The retained state of a machine's alarm, from `messages.alarm_state`."""
        self._mailbox.set_state(self.topics.of(machine, "alarm"), _json(self.placed(payload)))

    def health(self, machine: str, payload: Payload) -> None:
        """The retained health of a machine, from `messages.health`."""
        text = _json(self.placed(payload))
        self._mailbox.set_state(self.topics.of(machine, "health"), text, qos=0, optional=True)

    def node_health(self, payload: Payload) -> None:
        """The retained health of the daemon itself, from `messages.node_health`."""
        self._mailbox.set_state(self.topics.health, _json(payload), qos=0, optional=True)

    def set_bank(self, machine: str, payload: Payload) -> None:
        """Which bank of a machine is in use and which is proposed, retained; from `payloads.bank`."""
        text = _json(self.placed(payload))
        self._mailbox.set_state(self.topics.of(machine, "bank"), text, optional=True)

    def set_image(self, machine: str, picture: bytes) -> None:
        """The retained picture (PNG) of a machine's newest evidence; of an unknown machine none is sent."""
        if machine in self._machines:
            self._mailbox.set_state(self.topics.of(machine, "image"), picture, optional=True)

    def set_available(self, machine: str, available: bool) -> None:
        """Whether capture and bank of a machine work; offline until this says otherwise."""
        self._mailbox.set_state(self.topics.of(machine, "availability"), ONLINE if available else OFFLINE)

    def score(self, machine: str, payload: Payload) -> None:
        """The newest score, from `messages.score`; those between two messages are not sent."""
        text = _json(self.placed(payload))
        self._mailbox.set_score(self.topics.of(machine, "score"), text, self._score_expiry_s)

    def commands(self) -> list[Command]:
        """What operators have asked since the last call; to be answered by `reply`."""
        return self._inbox.take()

    def reply(self, command: Command, *, ok: bool, outcome: str) -> None:
        """Publish the outcome of a command to its sender, as a short text."""
        self._inbox.reply(command, ok=ok, outcome=outcome)

    def take_transfers(self, on_transfer: Callable[[bytes], None]) -> None:
        """Give what comes on `transfer` from now on to `on_transfer`, on the publisher's thread."""
        self._inbox.on_transfer = on_transfer

    def transferred(self, payload: Payload) -> None:
        """Say what became of a transfer."""
        self._mailbox.enqueue(self.topics.transferred, _json(payload), None)

    def offer(self, part: Payload | bytes) -> bool:
        """Send a part of what is collected once nothing else waits; False: offer it again later."""
        return self._mailbox.offer(self.topics.transferred, part if isinstance(part, bytes) else _json(part))

    def set_speeds(self, topics: Mapping[str, SpeedTopic]) -> None:
        """Where the speeds of machines are published from now on, by id of the machine."""
        self._speeds.set(topics)

    def speed(self, machine: str) -> Speed | None:
        """What is known now of a machine's speed; None where it has no topic for it."""
        return self._speeds.of(machine)

    @property
    def connected(self) -> bool:
        """The broker has let us in and the connection stands, as far as is known."""
        return self._link.connected

    @property
    def thread(self) -> GuardedThread:
        """The publisher's thread."""
        return self._link.thread

    @property
    def alive(self) -> bool:
        """The publisher's thread runs."""
        return self._link.alive

    def counters(self) -> Counters:
        """How delivery stands."""
        return Counters(
            connected=self._link.connected,
            published=self._link.published,
            dropped=self.outbox.dropped,
            outbox_depth=self.outbox.depth,
            outbox_unsaved=self.outbox.unsaved,
            connections=self._link.connections,
            last_error=self._link.last_error,
        )

    def placed(self, payload: Payload) -> Payload:
        """The payload of a machine, with where it stands."""
        return payload | self._assets.get(payload.get("machine", ""), {})

    def _connect(self, protocol: Protocol, without: Concessions) -> Connection:
        return Connection(
            self._broker,
            client_id=f"{self.topics.root}-{self.topics.node}",
            protocol=protocol,
            # Longer than the delay of the will, because the end of the session sends it.
            session_expiry_s=self._will.delay_s + _SESSION_EXPIRY_S,
            on_message=self._inbox.receive,
            will=self._will,
            without=without,
        )

    def _offline_topics(self) -> list[str]:
        """In the order of importance: a machine counts as offline where its node does."""
        machines = tuple(self._machines)
        return [self.topics.status, *(self.topics.of(machine, "availability") for machine in machines)]


def _json(payload: Payload) -> str:
    return json.dumps(payload, separators=(",", ":"), allow_nan=False)
