"""The check of a configuration builds what `run` would build from it, and starts nothing.

So `run` refuses nothing at its start that this has not named, with the line. Microphones and the broker are
not asked: they may be away when the daemon starts (`doctor` and `mqtt check` ask them).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from echo_stream.config.document import Key
from echo_stream.config.load import dotted, find, load_with_lines, mistakes
from echo_stream.config.schema import Config, EchoEncoder, Machine
from echo_stream.config.sources import CommandSource, RecordingSource
from echo_stream.core.errors import BankError, CheckpointError, EchoStreamError, MissingExtra
from echo_stream.core.files import open_regular, read_regular

if TYPE_CHECKING:
    from echo_stream.encode.encoder import Encoder

PEM_BYTES = 1_000_000
Problem = tuple[Key, str]


def check_config(path: Path | None) -> tuple[Path, Config]:
    """Where the configuration stands, and what it says.

    Raises:
        ConfigError: `run` could not begin with it; names every line.
    """
    path = path or find()
    config, document = load_with_lines(path)
    found = [
        *_state_problems(config),
        *_mqtt_problems(config),
        *_web_problems(config),
        *_plant_problems(config),
        *_notify_problems(config),
        *_sound_problems(config),
    ]
    if found:
        raise mistakes(path, [(document.line(key), f"{dotted(key)}: {text}") for key, text in found])
    return path, config


def _state_problems(config: Config) -> Iterator[Problem]:
    folder = config.state_dir
    if folder.exists() and not folder.is_dir():
        yield ("state_dir",), f"{folder} is a file, expected a folder"


def _mqtt_problems(config: Config) -> Iterator[Problem]:
    mqtt, tls = config.mqtt, config.mqtt.tls
    files: dict[Key, Path | None] = {("mqtt", "password_file"): mqtt.password_file}
    if tls.on:
        files |= {("mqtt", "tls", name): getattr(tls, name) for name in ("ca_file", "cert_file", "key_file")}
    found = [problem for key, file in files.items() if file and (problem := _file_problem(key, file))]
    yield from found
    if tls.on and not found:
        from echo_stream.pipeline.factory import broker_settings

        try:
            broker_settings(config).tls_context()
        except EchoStreamError as error:
            yield ("mqtt", "tls"), _in_one_line(error)


def _web_problems(config: Config) -> Iterator[Problem]:
    if not config.web.enabled:
        return
    from echo_stream.web.server import require_page

    web = config.web
    if web.password_file is not None and "$" in str(web.password_file):  # as below
        web = web.model_copy(update={"password_file": None})
    try:
        require_page(web)
    except MissingExtra as error:
        yield ("web", "enabled"), _in_one_line(error)
    except EchoStreamError as error:
        yield ("web", "password_file"), _in_one_line(error)


def _plant_problems(config: Config) -> Iterator[Problem]:
    if not config.plant.trust:
        return
    try:
        import echo_stream.mqtt.signed  # noqa: F401 - whether its library is there
    except MissingExtra as error:
        yield ("plant", "trust"), _in_one_line(error)


def _notify_problems(config: Config) -> Iterator[Problem]:
    for n, settings in enumerate(config.notify):
        if settings.url_file is not None and "$" in str(settings.url_file):  # as below
            continue
        from echo_stream.daemon.notify import sender, url_of

        try:
            sender(url_of(settings))
        except EchoStreamError as error:
            yield ("notify", n, "url" if settings.url_file is None else "url_file"), _in_one_line(error)


def _file_problem(key: Key, file: Path) -> Problem | None:
    if "$" in str(file):  # $CREDENTIALS_DIRECTORY: known to the service alone
        return None
    try:
        read_regular(file, PEM_BYTES)
    except OSError as error:
        return key, f"{file}: {error.strerror}"
    return None


def _sound_problems(config: Config) -> Iterator[Problem]:
    """Recordings, weights and banks; all of a bank's demands only where the rest of its machine is right."""
    rates = {}
    for n, machine in enumerate(config.machines):
        try:
            rates[n] = _rate_hz(machine)
        except EchoStreamError as error:
            yield ("machines", n, "source"), _in_one_line(error)
        if machine.bank.is_dir():
            yield ("machines", n, "bank"), f"{machine.bank} is a folder, expected a file"
    fitted = {n: rate for n, rate in rates.items() if rate and config.machines[n].bank.is_file()}
    encoder: Encoder | None = None
    if fitted or isinstance(config.encoder, EchoEncoder):
        try:
            encoder = _encoder(config)
        except EchoStreamError as error:
            key = "weights" if isinstance(config.encoder, EchoEncoder) else "kind"
            yield ("encoder", key), _in_one_line(error)
    if encoder is None:
        return
    from echo_stream.pipeline.factory import build_alarms, load_fitting_bank

    for n, rate_hz in fitted.items():
        machine = config.machines[n]
        try:
            build_alarms(machine, load_fitting_bank(config, machine, encoder, rate_hz))
        except BankError as error:
            yield ("machines", n, "bank"), _in_one_line(error)


def _rate_hz(machine: Machine) -> int | None:
    """The rate that the machine's windows will have.

    Raises:
        SourceError: its recording cannot be read, or has no such channel; or there is no such program.
    """
    source = machine.source
    if isinstance(source, CommandSource):
        from echo_stream.capture.command import find_program

        find_program(source.argv[0])
    if source.fixed_rate_hz is not None or not isinstance(source, RecordingSource):
        return source.fixed_rate_hz
    from echo_stream.capture.recording import Recording
    from echo_stream.capture.source import SharedSource

    with closing(SharedSource(Recording(source.path)).view(source.channel)) as opened:
        return opened.sample_rate_hz


def _encoder(config: Config) -> Encoder:
    from echo_stream.pipeline.factory import build_encoder

    settings = config.encoder
    if isinstance(settings, EchoEncoder):
        try:
            os.close(open_regular(settings.weights))
        except OSError as error:
            raise CheckpointError(
                f"{settings.weights}: {error.strerror}", "echo-stream fetch-model"
            ) from error
    with TemporaryDirectory() as scratch:  # nothing of root's may appear in the service's state directory
        return build_encoder(config.model_copy(update={"state_dir": Path(scratch)}))


def _in_one_line(error: EchoStreamError) -> str:
    return "; ".join(filter(None, [error.message, error.hint])).replace("\n", " ")
