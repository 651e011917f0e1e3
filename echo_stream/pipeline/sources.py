"""Sources are opened as the configuration describes them, each device once for all its machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from echo_stream.capture.source import AudioSource, SharedSource
from echo_stream.config.schema import Machine
from echo_stream.config.sources import CommandSource, Microphone, RecordingSource, SimulatedSource, UdpSource
from echo_stream.core.log_limit import LogLimit


def by_device(machines: Iterable[Machine]) -> dict[object, list[Machine]]:
    """Machines with channels of one device stand together: it is opened once for all of them."""
    together: dict[object, list[Machine]] = {}
    for machine in machines:
        key = machine.source.device_key
        together.setdefault(machine.id if key is None else (machine.source.kind, key), []).append(machine)
    return together


def open_sources(machines: Iterable[Machine], *, patient: bool = True) -> dict[str, AudioSource]:
    """The source of each machine, opened, with the machine's one channel.

    Args:
        machines: whose.
        patient: a microphone or a program that is not there, or goes, is waited for; otherwise an error.

    Raises:
        SourceError: there is no such file or channel, or no such device or program and nobody is patient.
    """
    views: dict[str, AudioSource] = {}
    for together in by_device(machines).values():
        channels = [machine.source.channel for machine in together]
        shared = SharedSource(_open(together[0], max(channels) + 1, patient))
        for machine, channel in zip(together, channels, strict=True):
            views[machine.id] = shared.view(channel)
    return views


def _open(machine: Machine, channels: int, patient: bool) -> AudioSource:
    # Each source is imported where it is chosen: PortAudio is needed by microphones only.
    source = machine.source
    if isinstance(source, Microphone | CommandSource | UdpSource):
        return _open_device(source, channels, patient)
    if isinstance(source, RecordingSource):
        from echo_stream.capture.recording import Recording  # noqa: PLC0415

        return Recording(source.path, pace=source.pace, loop=source.loop)
    if isinstance(source, SimulatedSource):
        from echo_stream.capture.simulator import Simulated  # noqa: PLC0415

        return Simulated(
            source.seed,
            source.sample_rate_hz,
            [(fault.start_s, fault.end_s, fault.kind) for fault in source.faults],
            pace=source.pace,
            duration_s=source.duration_s,
            start_s=source.start_s,
        )
    from echo_stream.capture.stdin import RawPcm  # noqa: PLC0415

    return RawPcm(source.sample_rate_hz, source.format, source.channels)


def _open_device(source: Microphone | CommandSource | UdpSource, channels: int, patient: bool) -> AudioSource:
    """A source that can go and come back; patient: it is supervised."""
    from echo_stream.capture import reconnect  # noqa: PLC0415

    open_source: Callable[[], reconnect.DeviceSource]
    rate_hz, silent_s, grace_s = source.sample_rate_hz, reconnect.SILENT_S, reconnect.GRACE_S
    if isinstance(source, Microphone):
        from echo_stream.capture.microphone import Microphone as Device  # noqa: PLC0415

        description = f"microphone {source.device!r}"
        open_source = partial(Device, source.device, rate_hz, channels)
    elif isinstance(source, CommandSource):
        from echo_stream.capture import command  # noqa: PLC0415

        description, channels = command.description_of(source.argv), source.channels
        limit = LogLimit(f"messages of {description}")
        open_source = partial(command.Command, source.argv, rate_hz, source.format, channels, limit=limit)
        silent_s, grace_s = command.SILENT_S, command.GRACE_S
    else:
        from echo_stream.capture import udp  # noqa: PLC0415

        description, channels = f"sensor {source.sender} on UDP port {source.port}", source.channels
        limit = LogLimit(f"refused packets at UDP port {source.port}")
        open_source = partial(
            udp.Udp, source.host, source.port, source.sender, rate_hz, channels, limit=limit
        )
    if not patient:
        return open_source()
    return reconnect.SupervisedSource(
        open_source,
        sample_rate_hz=rate_hz,
        channels=channels,
        description=description,
        silent_s=silent_s,
        grace_s=grace_s,
    )
