"""check-config refuses with 78 and the line whatever `run` would refuse at its start."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo_stream.capture.simulator import SimulatedMachine
from echo_stream.cli.check_config import check_config
from echo_stream.config.load import load
from echo_stream.core.errors import ConfigError
from tests.support.stations import learnt

CONFIG = """\
node: pc7
state_dir: state
encoder: {kind: spectral}
mqtt: {host: localhost, username: pump, password_file: password, tls: {}}
machines:
  - id: pump3
    source: {kind: recording, path: normal.wav}
    bank: pump3.safetensors
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "password").write_text("secret\n")
    soundfile.write(tmp_path / "normal.wav", np.zeros(16_000), 16_000)
    return tmp_path


def change(project: Path, find: str, put: str) -> None:
    assert find in CONFIG
    (project / "config.yaml").write_text(CONFIG.replace(find, put))


def refused(project: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        check_config(project / "config.yaml")
    assert caught.value.exit_code == 78
    return caught.value.message.replace(f"{project}/", "")


def test_what_is_right_is_taken(project: Path) -> None:
    assert check_config(project / "config.yaml")[1].node == "pc7"
    assert {path.name for path in project.iterdir()} == {"config.yaml", "password", "normal.wav"}


def test_every_missing_file_is_named_with_its_line(project: Path) -> None:
    change(project, "tls: {}", "tls: {ca_file: ca.pem, cert_file: c.pem, key_file: k.pem}")
    (project / "password").unlink()
    (project / "normal.wav").unlink()
    os.mkfifo(project / "ca.pem")
    (project / "state").write_text("")
    assert refused(project).splitlines() == [
        "config.yaml:2: state_dir: state is a file, expected a folder",
        "config.yaml:4: mqtt.password_file: password: No such file or directory",
        "config.yaml:4: mqtt.tls.ca_file: ca.pem: is a named pipe, expected a file",
        "config.yaml:4: mqtt.tls.cert_file: c.pem: No such file or directory",
        "config.yaml:4: mqtt.tls.key_file: k.pem: No such file or directory",
        f"config.yaml:7: machines[0].source: normal.wav: no such file; Looked from {Path.cwd()}.",
    ]


def test_a_program_that_is_missing_is_refused(project: Path) -> None:
    recording = "{kind: recording, path: normal.wav}"
    change(project, recording, "{kind: command, argv: [/no/such/program], sample_rate_hz: 16000}")
    assert refused(project) == (
        "config.yaml:7: machines[0].source: the program '/no/such/program' is not there, or may not be "
        "executed; Install it, or write its whole path."
    )
    change(project, recording, "{kind: command, argv: [cat, /dev/zero], sample_rate_hz: 16000}")
    check_config(project / "config.yaml")


def test_a_certificate_that_is_none_is_refused(project: Path) -> None:
    change(project, "tls: {}", "tls: {ca_file: ca.pem}")
    (project / "ca.pem").write_text("no certificate\n")
    assert "config.yaml:4: mqtt.tls: " in refused(project)


def test_a_credential_of_the_service_is_not_looked_for(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    change(project, "password_file: password", "password_file: '${CREDENTIALS_DIRECTORY}/password'")
    check_config(project / "config.yaml")


@pytest.mark.parametrize(
    ("find", "put", "said"),
    [
        (
            "path: normal.wav",
            "path: normal.wav, channel: 2",
            "7: machines[0].source: normal.wav: no channel 2",
        ),
        (
            "{kind: spectral}",
            "{kind: echo, weights: w.safetensors}",
            "3: encoder.weights: w.safetensors: No such",
        ),
        ("{kind: spectral}", "{kind: echo, weights: normal.wav}", "config.yaml:3: encoder.weights: "),
        ("pump3.safetensors", "normal.wav", "config.yaml:8: machines[0].bank: normal.wav"),
        ("pump3.safetensors", "../", "config.yaml:8: machines[0].bank: "),
    ],
)
def test_a_file_that_does_not_fit_is_refused(project: Path, find: str, put: str, said: str) -> None:
    if "echo" in put:
        pytest.importorskip("torch")
    change(project, find, put)
    assert said in refused(project)


def test_a_bank_of_another_window_is_refused(project: Path) -> None:
    soundfile.write(project / "normal.wav", SimulatedMachine(3, 16_000).sound(40.0), 16_000)
    settings = load(project / "config.yaml")
    (machine,) = settings.machines
    learnt(settings, machine, project / "normal.wav").bank.save(machine.bank)
    check_config(project / "config.yaml")
    change(project, "{kind: spectral}", "{kind: spectral, window_s: 3.0}")
    assert "config.yaml:8: machines[0].bank: bank " in refused(project)
    assert "window_s" in refused(project)
