"""From the configuration to the parts of delivery: broker, publisher, evidence."""

from __future__ import annotations

from collections.abc import Callable

from echo_stream.config import Config
from echo_stream.deliver.evidence import Evidence
from echo_stream.deliver.evidence_files import Kept
from echo_stream.deliver.mqtt import Publisher
from echo_stream.deliver.mqtt_broker import Broker


def evidence_of(config: Config, on_complete: Callable[[Kept], None]) -> Evidence | None:
    """What keeps the sound of alarms, not started yet; None where nothing is to be kept."""
    wanted = config.evidence
    if not wanted.enabled:
        return None
    return Evidence(
        config.state_dir / "evidence",
        pre_roll_s=wanted.pre_roll_s,
        post_roll_s=wanted.post_roll_s,
        max_mb=wanted.max_mb,
        max_days=wanted.max_days,
        min_free_mb=wanted.min_free_mb,
        on_complete=on_complete,
    )


def broker_of(config: Config) -> Broker:
    """Where the broker is, and how it lets us in."""
    mqtt, tls = config.mqtt, config.mqtt.tls
    return Broker(
        host=mqtt.host,
        port=mqtt.port,
        username=mqtt.username,
        password_file=mqtt.password_file,
        tls=tls.on,
        ca_file=tls.ca_file,
        cert_file=tls.cert_file,
        key_file=tls.key_file,
    )


def publisher_of(config: Config) -> Publisher:
    """The MQTT side, not started yet."""
    mqtt = config.mqtt
    return Publisher(
        broker_of(config),
        node=config.node,
        machines={machine.id: machine.title for machine in config.machines},
        outbox_path=config.state_dir / "outbox.sqlite",
        topic_root=mqtt.topic_root,
        protocol=mqtt.protocol,
        outbox_max_rows=config.outbox.max_rows,
        outbox_max_age_s=config.outbox.max_days * 86_400,
        discovery_prefix=mqtt.discovery_prefix,
        score_interval_s=mqtt.score_interval_s,
    )
