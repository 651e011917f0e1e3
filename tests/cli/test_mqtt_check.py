"""The staged check against brokers that fail at each step."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from echo_stream.cli.mqtt_check import STEPS, Step, check
from echo_stream.mqtt.broker import Broker
from echo_stream.mqtt.topics import Topics
from tests.support.broker import HOST, MosquittoBroker, free_port, make_pki, mosquitto
from tests.support.daemon import wait_for
from tests.support.fake_broker import FakeBroker, packets

TOPICS = Topics("echo-stream", "pc7")

pytestmark = pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket.*:pytest.PytestUnraisableExceptionWarning")


def last(steps: list[Step], name: str) -> Step:
    """The failed step, which must be this one, after all before it went well."""
    assert [step.name for step in steps] == list(STEPS[: STEPS.index(name) + 1])
    assert all(step.ok and not step.hint for step in steps[:-1])
    assert not steps[-1].ok
    assert steps[-1].hint
    return steps[-1]


@pytest.mark.parametrize("protocol", [3, 5])
def test_all_is_well(broker: MosquittoBroker, protocol: int) -> None:
    steps = list(check(Broker(broker.host, broker.port), TOPICS, protocol=5 if protocol == 5 else 3))
    assert [step.name for step in steps] == list(STEPS)
    assert all(step.ok for step in steps)
    assert "MQTT 5" in steps[3].found if protocol == 5 else "MQTT 3.1.1" in steps[3].found


def test_all_is_well_with_everything_on(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    with mosquitto(tmp_path, users={"echo": "s3cret"}, tls=True, client_certs=True) as broker:
        pki = broker.pki
        steps = list(
            check(
                Broker(
                    broker.host,
                    broker.port,
                    username="echo",
                    password_file=tmp_path / "secret",
                    tls=True,
                    ca_file=pki.ca,
                    cert_file=pki.client_cert,
                    key_file=pki.client_key,
                ),
                TOPICS,
            )
        )
    assert all(step.ok for step in steps)
    assert len(steps) == len(STEPS)
    assert "TLSv1.3" in steps[2].found
    assert "user echo" in steps[3].found
    assert "s3cret" not in str(steps)


def test_the_name() -> None:
    assert "no.such.host.invalid" in last(list(check(Broker("no.such.host.invalid"), TOPICS)), "name").found


def test_tcp() -> None:
    assert "refused" in last(list(check(Broker(HOST, free_port()), TOPICS)), "TCP").found


def test_tls_with_a_wrong_authority(tmp_path: Path) -> None:
    with mosquitto(tmp_path, tls=True) as broker:
        steps = list(check(Broker(broker.host, broker.port, tls=True, ca_file=broker.pki.other_ca), TOPICS))
    assert "not trusted" in last(steps, "TLS").found


def test_tls_where_there_is_none(broker: MosquittoBroker) -> None:
    steps = list(check(Broker(broker.host, broker.port, tls=True, ca_file=make_pki().ca), TOPICS))
    assert "8883" in last(steps, "TLS").hint


def test_a_missing_authority(broker: MosquittoBroker, tmp_path: Path) -> None:
    steps = list(check(Broker(broker.host, broker.port, tls=True, ca_file=tmp_path / "none.pem"), TOPICS))
    assert "cannot be read" in last(steps, "TLS").found


def test_no_tls_where_the_broker_wants_it(tmp_path: Path) -> None:
    with mosquitto(tmp_path, tls=True) as broker:
        last(list(check(Broker(broker.host, broker.port), TOPICS)), "authentication")


def test_a_wrong_password(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("wrong\n")
    with mosquitto(tmp_path, users={"echo": "s3cret"}) as broker:
        where = Broker(broker.host, broker.port, username="echo", password_file=tmp_path / "secret")
        failed = last(list(check(where, TOPICS)), "authentication")
    assert "password" in failed.hint


def test_a_broker_that_never_answers_is_left_without_open_connections() -> None:
    ended: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        while connection.recv(4096):
            pass
        ended.append(connection)

    broker = FakeBroker(serve)
    steps = list(check(Broker(broker.host, broker.port, connect_timeout_s=0.3), TOPICS))
    assert "did not answer" in last(steps, "authentication").found
    wait_for(lambda: len(ended) == 3, 60, "TCP, MQTT 5 and MQTT 3.1.1 have hung up")
    broker.close()


def test_a_broker_without_mqtt_5() -> None:
    def serve(connection: socket.socket) -> None:
        _, body = packets(connection)
        connection.sendall(b"\x20\x02\x00\x01" if body[6] == 5 else b"\x20\x02\x00\x00")

    broker = FakeBroker(serve)
    steps = []
    for step in check(Broker(broker.host, broker.port), TOPICS):
        steps.append(step)
        if step.name == "authentication":
            break
    broker.close()
    assert steps[-1].ok
    assert "3.1.1" in steps[-1].found


def test_an_access_list_that_forbids_writing(tmp_path: Path) -> None:
    access = tmp_path / "access"
    access.write_text("topic read #\n")
    with mosquitto(tmp_path, extra=f"acl_file {access}") as broker:
        failed = last(list(check(Broker(broker.host, broker.port), TOPICS)), "publish")
    assert "echo-stream/pc7/#" in failed.hint


def test_what_the_broker_lacks_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    with mosquitto(tmp_path, extra="retain_available false\nmax_packet_size 2048") as broker:
        steps = list(check(Broker(broker.host, broker.port), TOPICS, largest_bytes=3000))
    assert all(step.ok for step in steps)
    limits = next(step for step in steps if step.name == "limits").found
    assert "retained" in limits
    assert "2048 bytes" in limits
    assert "3000 bytes" in limits


def test_the_check_leaves_nothing_retained(broker: MosquittoBroker, listen: Callable[..., Any]) -> None:
    assert all(step.ok for step in check(Broker(broker.host, broker.port), TOPICS))
    assert listen(broker, "#").heard == []
