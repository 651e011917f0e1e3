"""The inbox takes what the broker brings: commands for the pipeline, speeds, and the start of Home Assistant.

`receive` and `tick` run on the publisher's thread; `take` and `reply` are for the pipeline.
"""

from __future__ import annotations

import json
import queue
import random
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime

from paho.mqtt.client import MQTTMessage

from echo_stream.core.errors import CommandRefused
from echo_stream.core.log import get_logger
from echo_stream.core.log_limit import LogLimit
from echo_stream.core.text import clean_text
from echo_stream.mqtt import state_payloads
from echo_stream.mqtt.commands import Command, ReplyTo, parse, tokens
from echo_stream.mqtt.mailbox import Mailbox
from echo_stream.mqtt.payloads import ONLINE
from echo_stream.mqtt.speeds import Speeds
from echo_stream.mqtt.topics import MAX_TOPIC_BYTES, Topics

_MAX_WAITING = 100
_MAX_USER_PROPERTIES = 10
_MAX_COMMANDS_LOGGED = 100
_NO_REPLY = (
    "the response topic is no topic, or one that means something else: ours, Home Assistant's, the broker's"
)

log = get_logger()


class Inbox:
    """Messages to us.

    Args:
        topics: Ours.
        machines: Whose commands we take.
        mailbox: Takes the replies, and holds the discovery messages.
        speeds: Takes what other programs say of our machines' speed.
        discovery_prefix: Home Assistant's; None: no discovery messages.
        birth_delay_s: After Home Assistant's start, discovery is sent within this time, at random, so that
            many daemons do not answer at once.
    """

    def __init__(
        self,
        topics: Topics,
        machines: Collection[str],
        mailbox: Mailbox,
        speeds: Speeds,
        *,
        discovery_prefix: str | None,
        birth_delay_s: float,
    ) -> None:
        self.on_transfer: Callable[[bytes], None] | None = None
        """Takes what comes on the topic `transfer`; None: it is not subscribed to."""
        self._topics = topics
        self._machines = machines
        self._mailbox = mailbox
        self._speeds = speeds
        self._prefix = discovery_prefix
        self._birth = f"{discovery_prefix}/status" if discovery_prefix else None
        self._birth_delay_s = birth_delay_s
        self._discover_at_s: float | None = None
        # A sender of commands must not fill the journal.
        self._may_log_refusal = LogLimit("refused commands").admits
        self._may_log_no_reply = LogLimit("commands without a possible reply").admits
        self._may_log_command = LogLimit("commands", _MAX_COMMANDS_LOGGED).admits
        self._waiting: queue.Queue[Command] = queue.Queue(_MAX_WAITING)

    def subscriptions(self, wildcards: bool) -> list[tuple[str, bool]]:
        """What to subscribe to at every connection; by name for each machine where there are no wildcards.

        Beside each: whether we must see that a message was published with the retain flag, as a command must
        not be. Of others the flag is to say that it was kept, thus is old.
        """
        commands = (
            [self._topics.commands]
            if wildcards
            else [self._topics.of(machine, "cmd") for machine in tuple(self._machines)]
        )
        others = [*([self._birth] if self._birth else []), *self._speeds.topics]
        if self.on_transfer is not None:
            commands = [*commands, self._topics.transfer]
        return [*((topic, True) for topic in commands), *((topic, False) for topic in others)]

    def receive(self, message: MQTTMessage) -> None:
        """A message of a subscription."""
        if message.topic == self._birth:
            if message.payload == ONLINE.encode() and not message.retain:  # a retained one is old news
                self._discover_at_s = time.monotonic() + random.uniform(0.0, self._birth_delay_s)  # noqa: S311
            return
        if not message.topic.startswith(f"{self._topics.root}/"):
            self._speeds.receive(message)
            return
        if message.topic == self._topics.transfer:
            if self.on_transfer is not None and not message.retain:
                self.on_transfer(bytes(message.payload))
            return
        machine = clean_text(message.topic.split("/")[-2], 100)
        reply_to, sender = self._reply_address(machine, message)
        try:
            self._checked(machine, message, reply_to, sender)
        except CommandRefused as refusal:
            if self._may_log_refusal():
                log.warning("command refused", machine=machine, reason=refusal.message, sender=sender)
            verb, token = tokens(bytes(message.payload))
            self._send(machine, reply_to, verb, token, ok=False, outcome=f"refused: {refusal.message}")

    def take(self) -> list[Command]:
        """The commands that came since the last call."""
        taken: list[Command] = []
        while True:
            try:
                taken.append(self._waiting.get_nowait())
            except queue.Empty:
                return taken

    def reply(self, command: Command, *, ok: bool, outcome: str) -> None:
        """Publish the outcome of a command to its sender."""
        may_log = self._may_log_command if ok else self._may_log_refusal
        if may_log():
            log.info(
                "command answered",
                machine=command.machine,
                command=command.verb.value,
                ok=ok,
                outcome=outcome,
            )
        self._send(command.machine, command.reply_to, command.verb.value, command.id, ok=ok, outcome=outcome)

    def tick(self) -> None:
        """Send discovery again where its time has come."""
        if self._discover_at_s is not None and time.monotonic() >= self._discover_at_s:
            self._discover_at_s = None
            self._mailbox.resend(f"{self._prefix}/")

    def _checked(self, machine: str, message: MQTTMessage, reply_to: ReplyTo, sender: dict[str, str]) -> None:
        if message.retain:
            raise CommandRefused(
                "the message is retained; a command must be published without the retain flag"
            )
        if machine not in self._machines:
            raise CommandRefused(
                f"no machine {machine!r} here; there are {', '.join(tuple(self._machines)[:20])}"
            )
        command = parse(machine, bytes(message.payload), reply_to, sender)
        try:
            self._waiting.put_nowait(command)
        except queue.Full:
            raise CommandRefused("too many commands wait already") from None
        if not self._may_log_command():
            return
        log.info(
            "command received",
            machine=machine,
            command=command.verb.value,
            level=command.level and command.level.value,
            duration_s=command.duration_s,
            by=command.by,
            reason=command.reason,
            sender=sender,
        )

    def _reply_address(self, machine: str, message: MQTTMessage) -> tuple[ReplyTo, dict[str, str]]:
        """Where to answer, and what the broker says of who asks."""
        topic: str | None = getattr(message.properties, "ResponseTopic", None)
        correlation: bytes | None = getattr(message.properties, "CorrelationData", None)
        user = list(getattr(message.properties, "UserProperty", ()))[:_MAX_USER_PROPERTIES]
        sender = {clean_text(name, 100): clean_text(value, 200) for name, value in user}
        if topic is None:
            topic = f"{self._topics.root}/{self._topics.node}/{machine}/reply"
        elif not self._may_answer_on(topic):
            if self._may_log_no_reply():
                log.warning(
                    "the reply to a command could not be sent",
                    machine=machine,
                    topic=clean_text(topic),
                    sender=sender,
                    reason=_NO_REPLY,
                )
            topic = None
        return ReplyTo(topic, correlation), sender

    def _may_answer_on(self, topic: str) -> bool:
        """Whether a reply there can be sent, and nobody would take it for something else that we say.

        The sender chooses the topic, and it is we who publish there: with our rights, in our name.
        """
        if not topic or any(c in topic for c in "+#\0") or len(topic.encode()) > MAX_TOPIC_BYTES:
            return False  # the broker would end our connection
        if self._prefix is not None and f"{topic}/".startswith(f"{self._prefix}/"):
            return False
        if f"{topic}/".startswith(f"{self._topics.root}/"):
            return topic.removeprefix(f"{self._topics.root}/").split("/")[2:3] == ["reply"]
        return not topic.startswith("$")

    def _send(
        self, machine: str, reply_to: ReplyTo, verb: str | None, token: str | None, *, ok: bool, outcome: str
    ) -> None:
        payload = state_payloads.reply(
            node=self._topics.node,
            machine=machine,
            ts=datetime.now(UTC),
            command=verb,
            token=token,
            ok=ok,
            outcome=outcome,
        )
        if reply_to.topic is not None:
            self._mailbox.enqueue(reply_to.topic, json.dumps(payload), reply_to.correlation)
