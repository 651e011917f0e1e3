"""How the broker lets us in, or does not: passwords and TLS, with a real mosquitto."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.publish import single

from echo_stream.mqtt.broker import untrusted
from echo_stream.mqtt.publisher import Publisher
from tests.support.broker import dated_certificate, make_pki, mosquitto

from .conftest import wait_until

Publish = Callable[..., Publisher]
Logged = list[MutableMapping[str, Any]]

# paho leaves the socket of a failed TLS handshake to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket.*:pytest.PytestUnraisableExceptionWarning")


def refused(logged: Logged) -> list[MutableMapping[str, Any]]:
    return [line for line in logged if line["event"] == "the broker refuses us"]


def secret(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "secret"
    path.write_text(text + "\n")
    return path


@pytest.mark.parametrize("protocol", [3, 5])
def test_right_password(tmp_path: Path, publish: Publish, protocol: int) -> None:
    with mosquitto(tmp_path, users={"echo": "s3cret"}) as broker:
        publisher = publish(
            broker, protocol=protocol, username="echo", password_file=secret(tmp_path, "s3cret")
        )
        wait_until(lambda: publisher.connected, "connected")


@pytest.mark.parametrize("protocol", [3, 5])
def test_wrong_password_is_one_line_and_a_slow_retry_until_it_is_right(
    tmp_path: Path, publish: Publish, logged: Logged, protocol: int
) -> None:
    with mosquitto(tmp_path, users={"echo": "s3cret"}) as broker:
        path = secret(tmp_path, "wrong")
        publisher = publish(
            broker, protocol=protocol, username="echo", password_file=path, refused_retry_s=0.1
        )
        wait_until(lambda: broker.log.count("not authorised") >= 4, "it keeps asking")
        assert len(logged) == 1, "one clear line"
        assert refused(logged)
        assert "password" in logged[0]["hint"]
        assert "s3cret" not in str(logged)
        assert "wrong" not in str(logged)
        assert not publisher.connected
        path.write_text("s3cret\n")
        wait_until(lambda: publisher.connected, "the file is read anew")
    assert [line["event"] for line in logged][:2] == ["the broker refuses us", "connected to the broker"]


def test_a_password_file_that_is_missing_is_said_and_stops_nothing(
    tmp_path: Path, publish: Publish, logged: Logged
) -> None:
    with mosquitto(tmp_path, users={"echo": "s3cret"}) as broker:
        publisher = publish(broker, username="echo", password_file=tmp_path / "none", refused_retry_s=0.1)
        wait_until(lambda: refused(logged), "said")
        assert str(tmp_path / "none") in refused(logged)[0]["reason"]
        secret(tmp_path, "s3cret").rename(tmp_path / "none")
        wait_until(lambda: publisher.connected, "connected")


@pytest.mark.parametrize("protocol", [3, 5])
def test_tls_with_the_right_authority(tmp_path: Path, publish: Publish, protocol: int) -> None:
    with mosquitto(tmp_path, tls=True) as broker:
        publisher = publish(broker, protocol=protocol, tls=True, ca_file=broker.pki.ca)
        wait_until(lambda: publisher.connected, "connected")
        assert publisher.stop(5.0)


@pytest.mark.parametrize("other", [True, False], ids=["another authority", "the system's authorities"])
def test_tls_with_a_wrong_authority_is_refused_by_us(
    tmp_path: Path, publish: Publish, logged: Logged, other: bool
) -> None:
    with mosquitto(tmp_path, tls=True) as broker:
        publisher = publish(
            broker, tls=True, ca_file=broker.pki.other_ca if other else None, refused_retry_s=0.1
        )
        wait_until(lambda: broker.log.count("New connection") >= 4, "it keeps trying")
        assert len(logged) == 1
        assert "certificate" in refused(logged)[0]["reason"]
        assert "ca_file" in refused(logged)[0]["hint"]
        assert not publisher.connected


def test_a_certificate_for_another_host_is_refused_by_us(
    tmp_path: Path, publish: Publish, logged: Logged
) -> None:
    with mosquitto(tmp_path, tls=True, listen_on="127.0.0.2") as broker:
        publish(broker, tls=True, ca_file=broker.pki.ca)
        wait_until(lambda: refused(logged), "said")
        assert "127.0.0.2" in refused(logged)[0]["reason"]


def test_tls_with_a_client_certificate(tmp_path: Path, publish: Publish) -> None:
    with mosquitto(tmp_path, tls=True, client_certs=True) as broker:
        pki = broker.pki
        publisher = publish(
            broker, tls=True, ca_file=pki.ca, cert_file=pki.client_cert, key_file=pki.client_key
        )
        wait_until(lambda: publisher.connected, "connected")


def test_tls_without_the_client_certificate_that_the_broker_wants(
    tmp_path: Path, publish: Publish, logged: Logged
) -> None:
    with mosquitto(tmp_path, tls=True, client_certs=True) as broker:
        publisher = publish(broker, tls=True, ca_file=broker.pki.ca, refused_retry_s=0.1)
        wait_until(lambda: broker.log.count("New connection") >= 4, "it keeps trying")
        assert not publisher.connected
        # TLS 1.3 tells the client only after its own handshake: an alert, or just the end of the connection.
        assert "cert_file" in logged[0]["hint"]


def test_files_that_are_no_certificates(tmp_path: Path, publish: Publish, logged: Logged) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("not a certificate")
    with mosquitto(tmp_path, tls=True) as broker:
        publish(broker, tls=True, ca_file=garbage)
        wait_until(lambda: refused(logged), "said")
        assert "cannot be read" in refused(logged)[0]["reason"]


def test_tls_where_the_broker_speaks_none(tmp_path: Path, publish: Publish, logged: Logged) -> None:
    with mosquitto(tmp_path) as broker:
        publisher = publish(broker, tls=True, ca_file=make_pki().ca)
        wait_until(lambda: logged, "said")
        assert not publisher.connected


@pytest.mark.parametrize("text", ["\ufeffs3cret\r\n", "s3cret\r\n", "s3cret"])
def test_password_files_of_any_editor(tmp_path: Path, publish: Publish, text: str) -> None:
    with mosquitto(tmp_path, users={"echo": "s3cret"}) as broker:
        publisher = publish(broker, username="echo", password_file=secret(tmp_path, text))
        wait_until(lambda: publisher.connected, "let in")


def test_a_password_file_that_is_a_pipe_does_not_hang(tmp_path: Path, publish: Publish) -> None:
    os.mkfifo(tmp_path / "pipe")
    with mosquitto(tmp_path) as broker:
        publisher = publish(broker, username="echo", password_file=tmp_path / "pipe")
        wait_until(lambda: "no plain file" in publisher.counters().last_error, "said")


@pytest.mark.parametrize(
    ("begins_s", "ends_s", "says"),
    [(4, 1000, "set the clock"), (-1000, -10, "renew the broker's certificate")],
)
def test_a_certificate_out_of_its_time_leads_to_the_clock(
    tmp_path: Path, publish: Publish, logged: Logged, begins_s: float, ends_s: float, says: str
) -> None:
    cert, key = dated_certificate(tmp_path, begins_s, ends_s)
    extra = f"cafile {make_pki().ca}\ncertfile {cert}\nkeyfile {key}"
    with mosquitto(tmp_path, extra=extra) as broker:
        publisher = publish(broker, tls=True, ca_file=make_pki().ca, refused_retry_s=0.5)
        wait_until(lambda: refused(logged), "refused")
        assert says in logged[0]["hint"]
        if begins_s > 0:
            wait_until(lambda: publisher.connected, "it connects by itself when the time has come")


@pytest.mark.parametrize(("code", "words"), [(9, "clock"), (10, "renew"), (20, "ca_file")])
def test_the_hint_about_a_certificate_leads_to_the_cause(code: int, words: str) -> None:
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_code, error.verify_message = code, "why"
    assert words in untrusted("broker:8883", error).hint


def test_the_access_rules_of_contrib_let_each_do_its_work_and_no_more(
    tmp_path: Path, publish: Publish
) -> None:
    rules = Path(__file__).parents[2] / "contrib" / "mosquitto.acl"
    own = tmp_path / "rules.acl"  # mosquitto reads it as another user
    own.write_text(rules.read_text(encoding="utf-8"))
    names = ("echo-stream", "operator", "viewer", "homeassistant", "rollout")
    with mosquitto(tmp_path, users=dict.fromkeys(names, "s3cret"), extra=f"acl_file {own}") as broker:
        clients: dict[str, mqtt.Client] = {}
        heard: dict[str, list[str]] = {name: [] for name in names}
        for name in names[1:]:
            client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
            client.username_pw_set(name, "s3cret")
            client.on_message = lambda _c, to, message: to.extend(
                (message.topic, f"{message.topic} {message.payload!r}")
            )
            client.user_data_set(heard[name])
            client.on_connect = lambda c, *_: c.subscribe("#", qos=1)
            client.connect(broker.host, broker.port)
            client.loop_start()
            clients[name] = client
        try:
            publisher = publish(
                broker,
                username="echo-stream",
                password_file=secret(tmp_path, "s3cret"),
                discovery_prefix="homeassistant",
            )
            transfers: list[bytes] = []
            publisher.take_transfers(transfers.append)
            wait_until(
                lambda: "homeassistant/device/echo-stream_pc7_pump3/config" in heard["homeassistant"], "HA"
            )
            for name in ("operator", "viewer"):
                wait_until(lambda name=name: "echo-stream/pc7/status" in heard[name], name)  # type: ignore[misc]
                assert not any(topic.startswith("homeassistant/") for topic in heard[name])
            command = "echo-stream/pc7/pump3/cmd"
            for name in ("viewer", "operator", "homeassistant"):
                told = f'{{"command": "ack", "by": "{name}"}}'
                clients[name].publish(command, told, qos=1).wait_for_publish(10)
            found: list[str | None] = []

            def both() -> bool:
                found.extend(asked.by for asked in publisher.commands())
                return len(found) >= 2

            wait_until(both, "both commands")
            assert found == ["operator", "homeassistant"]
            for name in ("viewer", "operator"):  # each as a client of its own: a refusal may end a connection
                login = {"username": name, "password": "s3cret"}
                where = {"hostname": broker.host, "port": broker.port, "auth": login}
                for topic in ("status", "transfer"):
                    single(f"echo-stream/pc7/{topic}", "offline", 1, **where)  # type: ignore[arg-type]
            sent = clients["rollout"].publish("echo-stream/pc7/transfer", "rollout", qos=1)
            sent.wait_for_publish(10)
            wait_until(lambda: transfers, "what is rolled out")
            assert transfers == [b"rollout"]
            assert publisher.offer(b"sound of a room")
            wait_until(lambda: "echo-stream/pc7/transferred" in heard["rollout"], "what is collected")
            publisher.set_available("pump3", True)
            available = "echo-stream/pc7/pump3/availability"
            wait_until(lambda: heard["viewer"].count(available) >= 2, "what the daemon says")
            assert "echo-stream/pc7/status b'online'" in heard["viewer"]
            assert "echo-stream/pc7/status b'offline'" not in heard["viewer"]
            assert [name for name in names if "echo-stream/pc7/transferred" in heard[name]] == ["rollout"]
        finally:
            for client in clients.values():
                client.disconnect()
                client.loop_stop()
