"""A machine's sound out of numbers, for tests and the demonstration. Any thread; no clock, nothing shared.

Every sample is a function of the seed and its absolute index alone: sound is made in frames on a fixed grid
and cut as asked, so any cutting into blocks gives the same samples, bit by bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from echo_stream.capture.source import Anchor, UnsupervisedSource
from echo_stream.core.log import get_logger
from echo_stream.core.types import AudioBlock, Float32

_Float64 = NDArray[np.float64]
FILTER_S: Final = 0.064
"""Length of the noise's filter; its spectrum has details of about 30 Hz."""


def speed_swing(draw: np.random.Generator, load_period_s: float, load_phase: float) -> _Float64:
    """(terms, 3): relative depth, rate in Hz and phase of what swings about the mean speed: drift, slip."""
    slow = [(0.003, 1 / draw.uniform(25, 45), draw.uniform(0, 2 * np.pi)), (0.001, 0.7, 0.0)]
    slip = [(-0.006 * 0.85 / k, k / load_period_s, k * load_phase) for k in (1, 3, 5)]
    return np.array(slow + slip)


def tones(draw: np.random.Generator, teeth: int) -> _Float64:
    """(tones, 4): multiple of the shaft, amplitude, phase, share that follows the load; noise has rms 1."""
    shaft = [(k, 0.45 * k**-0.7 * math.exp(draw.normal(0, 0.4)), 0.1) for k in range(1, 13)]
    mesh = [
        (k * teeth + side, 0.3 / k * (1.0, 0.35, 0.12)[abs(side)] * math.exp(draw.normal(0, 0.3)), 0.3)
        for k in (1, 2, 3)
        for side in (-2, -1, 0, 1, 2)
    ]
    return np.array([(m, a, draw.uniform(0, 2 * np.pi), share) for m, a, share in shaft + mesh])


def noise_filter(draw: np.random.Generator, sample_rate_hz: int) -> _Float64:
    """Impulse response that makes white noise of rms 1 into the machine's noise of rms about 1."""
    n = 2 * round(FILTER_S * sample_rate_hz / 2)
    hz = np.fft.rfftfreq(n, 1 / sample_rate_hz)
    corner_hz, slope = draw.uniform(250, 600), draw.uniform(0.8, 1.2)
    magnitude = (1 + (hz / corner_hz) ** 2) ** (-slope / 2) + 0.01
    for _ in range(5):
        centre_hz, quality, height = (
            math.exp(draw.uniform(5.3, 8.9)),
            draw.uniform(4, 10),
            draw.uniform(0.5, 2),
        )
        magnitude *= 1 + height / (1 + (quality * (hz / centre_hz - centre_hz / np.maximum(hz, 1))) ** 2)
    magnitude[hz < 10] = 0  # no microphone hears these
    response = np.roll(np.fft.irfft(magnitude, n), n // 2) * np.hanning(n)
    reference = np.linspace(0, 8000, 1024)  # the same loudness at every rate
    power = float(np.mean(np.interp(reference, hz, magnitude, right=0) ** 2)) * 16000 / sample_rate_hz
    return np.asarray(response / math.sqrt(power))


# A machine's sound out of numbers, for tests and the demonstration. Any thread; no clock, nothing shared.
#
# Every sample is a function of the seed and its absolute index alone: sound is made in frames on a fixed grid
# and cut as asked, so any cutting into blocks gives the same samples, bit by bit.

FaultKind = Literal["bearing", "imbalance", "rattle"]
FAULT_KINDS: Final[tuple[FaultKind, ...]] = get_args(FaultKind)

_FILTERS_PER_FRAME: Final = 4
_RAMP_S: Final = 0.5
"""A fault that is not made of single hits comes and goes within this time."""
_HIT_S: Final = 0.08
"""After this time every hit has died away to less than -80 dB."""
_MACHINE, _NOISE, _BEARING, _RATTLE = range(4)
"""What a stream of random numbers is for, so that none of them is used twice."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of the simulated machine that comes and goes."""

    kind: FaultKind
    start_s: float
    end_s: float = math.inf
    severity: float = 1.0
    """1: a developed fault; a bearing's impacts stand 18 dB over the noise in their third of an octave, but
    the whole is hardly louder. 0.5 is a challenge."""

    def __post_init__(self) -> None:
        if self.kind not in FAULT_KINDS:
            raise ValueError(f"fault {self.kind!r} is not one of {', '.join(FAULT_KINDS)}")
        if not (0 <= self.start_s < self.end_s and self.severity > 0):
            raise ValueError(f"{self.kind}: 0 <= start_s < end_s and severity > 0 must hold")


class SimulatedMachine:
    """A rotating machine with a gear: another seed gives another machine, at a level of about -30 dBFS.

    Shaft harmonics that drift, a gear mesh with sidebands, coloured noise with resonances, and a load that
    changes every few seconds, on which loudness and (by slip) speed depend. One seed is the same machine at
    every sample rate, up to what the rate can carry.
    """

    def __init__(self, seed: int, sample_rate_hz: int = 16000, shaft_hz: float | None = None) -> None:
        """A machine.

        Args:
            seed: which machine, from 0.
            sample_rate_hz: 1 000 or more.
            shaft_hz: mean speed of the shaft; drawn from 22 to 48 Hz if not given.

        Raises:
            ValueError: a seed or a rate out of range.
        """
        if seed < 0 or sample_rate_hz < 1000:
            raise ValueError("the seed must be 0 or more and the sample rate 1000 Hz or more")
        self.seed = seed
        self.sample_rate_hz = sample_rate_hz
        draw = np.random.default_rng([seed, _MACHINE])
        drawn_shaft_hz = float(draw.uniform(22, 48))
        self.shaft_hz = drawn_shaft_hz if shaft_hz is None else shaft_hz
        self.teeth = int(draw.integers(17, 43))
        self.defects_per_turn = float(draw.uniform(3.05, 4.6))
        """Balls that pass a defect of the outer race in one turn of the shaft."""
        self.resonance_hz = min(float(draw.uniform(2400, 6000)), 0.35 * sample_rate_hz)
        """What a hit in the bearing makes ring, together with a mode at 0.6 of it."""
        self.ring_s = float(draw.uniform(0.002, 0.004))
        self.rattle_hz = min(float(draw.uniform(1600, 4200)), 0.25 * sample_rate_hz)
        """Centre of the sound of a loose part, about an octave wide."""
        self.load_period_s = float(draw.uniform(8, 13))
        self._load_phase = float(draw.uniform(0, 2 * np.pi))
        self._swing = speed_swing(draw, self.load_period_s, self._load_phase)
        self._tones = tones(draw, self.teeth)
        self._filter = noise_filter(draw, sample_rate_hz)
        self._frame_n = _FILTERS_PER_FRAME * len(self._filter)
        self._filter_spectrum = np.fft.rfft(self._filter, len(self._filter) + self._frame_n)
        power_of_noise = 2 / len(self._filter) * np.abs(np.fft.rfft(self._filter)) ** 2
        self._noise_power = np.concatenate([[0.0], np.cumsum(power_of_noise)])
        level_dbfs = float(draw.uniform(-33, -27))
        power = 1 + float((self._tones[:, 1] ** 2).sum()) / 2
        self._gain = 10 ** (level_dbfs / 20) / math.sqrt(power)

    @property
    def mesh_hz(self) -> float:
        """Mean rate at which teeth meet."""
        return self.teeth * self.shaft_hz

    @property
    def defect_hz(self) -> float:
        """Mean rate of the impacts of a bearing fault."""
        return self.defects_per_turn * self.shaft_hz

    def sound(
        self, seconds: float, fault: FaultKind | None = None, severity: float = 1.0, start_s: float = 0.0
    ) -> Float32:
        """Sound of the machine from start_s of its life, with one fault all the time or with none.

        Returns:
            (round(seconds * sample_rate_hz),) samples, full scale is -1 to 1.
        """
        faults = [] if fault is None else [Fault(fault, 0.0, math.inf, severity)]
        rate = self.sample_rate_hz
        return Scenario(self, faults).render(round(start_s * rate), round(seconds * rate))

    def turns(self, t_s: _Float64) -> _Float64:
        """Turns of the shaft since the machine's start: the integral of its speed, in closed form."""
        depth, rate_hz, phase = (column[:, None] for column in self._swing.T)
        wander_s = depth / (2 * np.pi * rate_hz) * (np.cos(phase) - np.cos(2 * np.pi * rate_hz * t_s + phase))
        return np.asarray(self.shaft_hz * (t_s + wander_s.sum(axis=0)))

    def load(self, t_s: _Float64) -> _Float64:
        """Load, about -1 to 1: nearly flat at either end, a second or two in between."""
        angle = 2 * np.pi * t_s / self.load_period_s + self._load_phase
        return np.asarray(0.85 * sum(np.sin(k * angle) / k for k in (1, 3, 5)))

    def background_rms(self, low_hz: float, high_hz: float) -> float:
        """Root mean square of the noise between two frequencies at middle load, full scale is 1."""
        line_hz = self.sample_rate_hz / len(self._filter)
        last = len(self._noise_power) - 1
        low, high = min(math.ceil(low_hz / line_hz), last), min(math.floor(high_hz / line_hz) + 1, last)
        return self._gain * math.sqrt(max(float(self._noise_power[high] - self._noise_power[low]), 0.0))

    def frame(self, number: int, faults: Sequence[Fault]) -> Float32:
        """Frame `number` of the fixed grid, with its faults."""
        t_s = (number * self._frame_n + np.arange(self._frame_n)) / self.sample_rate_hz
        faults = [f for f in faults if f.start_s < t_s[-1] and f.end_s > t_s[0] - _HIT_S]
        load = self.load(t_s)
        angle = 2 * np.pi * self.turns(t_s)
        imbalance = sum((f.severity * _ramp(t_s, f) for f in faults if f.kind == "imbalance"), 0 * t_s)
        noise = (
            self._noise(number) * (1 + 0.15 * load) * (1 + np.clip(0.35 * imbalance, 0, 0.8) * np.cos(angle))
        )
        tones = np.zeros_like(t_s)
        nyquist_turns = 0.47 * self.sample_rate_hz / self.shaft_hz
        turning, turned, turned_times = np.exp(1j * angle), np.ones(len(angle), complex), 0
        for multiple, amplitude, phase, with_load in self._tones:  # in rising order: a product, not a cosine
            if multiple < nyquist_turns:
                for _ in range(turned_times, int(multiple)):
                    turned *= turning
                turned_times = int(multiple)
                tone = math.cos(phase) * turned.real - math.sin(phase) * turned.imag
                heavier = 1 + imbalance * {1: 5.0, 2: 1.5}.get(multiple, 0.0)
                tones += amplitude * heavier * (1 + with_load * load) * tone
        samples = self._gain * (noise + tones)
        for fault in faults:
            if fault.kind != "imbalance":
                self._add_hits(samples, t_s, fault)
        return samples.astype(np.float32)

    def _noise(self, number: int) -> _Float64:
        """White noise of this frame and of the one before, through the filter."""
        n = len(self._filter)
        before, now = (
            np.random.default_rng([self.seed, _NOISE, k]).standard_normal(self._frame_n)
            for k in (number, number + 1)
        )
        spectrum = np.fft.rfft(np.concatenate([before[-n:], now])) * self._filter_spectrum
        return np.asarray(np.fft.irfft(spectrum, n + self._frame_n)[n:])

    def _add_hits(self, samples: _Float64, t_s: _Float64, fault: Fault) -> None:
        """Add the hits that begin in this frame, or shortly before it, and within the fault's time."""
        per_turn = self.defects_per_turn if fault.kind == "bearing" else 1.0
        around_s = np.array([max(t_s[0] - _HIT_S, 0.0), t_s[-1]])
        first, last = np.floor(per_turn * self.turns(around_s)).astype(int)
        numbers = np.arange(max(first - 1, 0), last + 2)
        hit_s = numbers / (per_turn * self.shaft_hz)
        for _ in range(5):  # the speed swings by 2 %, so each round leaves 2 % of the error
            hit_s -= (per_turn * self.turns(hit_s) - numbers) / (per_turn * self.shaft_hz)
        for number, time_s in zip(numbers, hit_s, strict=True):
            make = self._impact if fault.kind == "bearing" else self._knock
            if not fault.start_s <= time_s < fault.end_s:
                continue
            late_s, hit = make(int(number))
            at = round((time_s + late_s - t_s[0]) * self.sample_rate_hz)
            low, high = max(at, 0), min(at + len(hit), len(samples))
            if low < high:
                samples[low:high] += fault.severity * hit[low - at : high - at]

    @cached_property
    def _after_hit_s(self) -> _Float64:
        """Seconds since a hit, sample by sample, until it has died away."""
        return np.asarray(np.arange(round(_HIT_S * self.sample_rate_hz)) / self.sample_rate_hz)

    @cached_property
    def _ring(self) -> _Float64:
        """How the bearing rings after an impact of mean strength."""
        after_s, ring = self._after_hit_s, np.zeros_like(self._after_hit_s)
        for mode_hz in (self.resonance_hz, 0.6 * self.resonance_hz):
            around = self.background_rms(0.89 * mode_hz, 1.12 * mode_hz)
            ring += 8 * around * np.exp(-after_s / self.ring_s) * np.sin(2 * np.pi * mode_hz * after_s)
        return ring

    def _impact(self, number: int) -> tuple[float, _Float64]:
        """A ball over the defect: a short ring, a little early or late by slip, louder in the load zone."""
        draw = np.random.default_rng([self.seed, _BEARING, number])
        late_s = float(draw.normal(0, 0.01)) / self.defect_hz
        zone = 1 + 0.3 * math.cos(2 * math.pi * number / self.defects_per_turn)
        return late_s, float(draw.uniform(0.8, 1.25)) * zone * self._ring

    def _knock(self, number: int) -> tuple[float, _Float64]:
        """A loose part: on about every third turn, never quite at the same place, a burst of noise."""
        draw = np.random.default_rng([self.seed, _RATTLE, number])
        late_s = float(draw.uniform(0, 0.3)) / self.shaft_hz
        if draw.uniform() > 0.35:
            return late_s, np.zeros(0)
        after_s = self._after_hit_s
        burst = draw.standard_normal(len(after_s)) * np.exp(-after_s / 0.008)
        hz = np.fft.rfftfreq(len(after_s), 1 / self.sample_rate_hz)
        octaves = np.log2(np.maximum(hz, 1) / self.rattle_hz)
        burst = np.fft.irfft(np.fft.rfft(burst) * np.exp(-((octaves / 0.5) ** 2)), len(after_s))
        background = self.background_rms(self.rattle_hz / math.sqrt(2), self.rattle_hz * math.sqrt(2))
        loudest = math.sqrt(float(np.mean(burst[: len(burst) // 16] ** 2)))
        return late_s, float(draw.uniform(0.6, 1.4)) * 4 * background / loudest * burst


class Scenario:
    """A machine's life: its sound with faults that come and go. Not for two threads at a time."""

    def __init__(self, machine: SimulatedMachine, faults: Sequence[Fault] = ()) -> None:
        self.machine = machine
        self.faults = tuple(faults)
        self._latest: tuple[int, Float32] = (-1, np.zeros(0, np.float32))

    def render(self, start_sample: int, n: int) -> Float32:
        """Samples start_sample to start_sample + n; the same whatever was asked before.

        Returns:
            (n,) samples, full scale is -1 to 1.
        """
        size = self.machine._frame_n
        out = np.empty(n, np.float32)
        done = 0
        while done < n:
            number, offset = divmod(start_sample + done, size)
            if self._latest[0] != number:  # blocks are often shorter than a frame
                self._latest = number, self.machine.frame(number, self.faults)
            piece = self._latest[1][offset : offset + n - done]
            out[done : done + len(piece)] = piece
            done += len(piece)
        return out


def write_wav(path: Path, samples: Float32, sample_rate_hz: int) -> None:
    """Write one channel, (n,) full scale -1 to 1, as a WAV file of 16 bit."""
    import wave  # noqa: PLC0415 - only the demonstration writes files

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate_hz)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def _ramp(t_s: _Float64, fault: Fault) -> _Float64:
    """0 outside the fault's time, 1 inside, half a second in between."""
    inside_s = np.minimum(t_s - fault.start_s, fault.end_s - t_s)
    return np.asarray(np.clip(inside_s / _RAMP_S, 0, 1))


# The simulated machine as a source of sound, to try everything without a microphone. Pipeline thread.

log = get_logger()

_SHORTEST_S: Final = 0.01
_LONGEST_S: Final = 0.5
"""Of a block: a reader that was away gets what it missed in pieces."""
_SEAM_S: Final = 0.05
"""Over which the end of a loop fades into its beginning."""


class Simulated(UnsupervisedSource):
    """An AudioSource of one channel; nothing is ever lost, a reader that is late catches up."""

    channels: Final = 1
    lost_samples: Final = 0

    def __init__(
        self,
        seed: int = 1,
        sample_rate_hz: int = 16000,
        faults: Sequence[tuple[float, float, FaultKind]] = (),
        *,
        pace: Literal["realtime", "fast"] = "realtime",
        duration_s: float | None = None,
        start_s: float = 0.0,
        loop_s: float | None = None,
    ) -> None:
        """A stream of a simulated machine that begins now.

        Args:
            seed: which machine.
            sample_rate_hz: 1 000 or more.
            faults: (start_s, end_s, kind) of each; seconds after the start of the stream.
            pace: as time goes by, or as fast as it is read.
            duration_s: the stream's length; for ever if None.
            start_s: where in the machine's life the stream begins; the same time is the same sound.
            loop_s: the machine's life is its first loop_s seconds over and over, computed once for all
                streams of this seed and rate: to measure the rest with many machines. No faults then.

        Raises:
            ValueError: a seed, rate, fault or loop that cannot be.
        """
        if loop_s is not None and (faults or loop_s < 1):
            raise ValueError("a loop lasts a second or longer and has no faults")
        machine = SimulatedMachine(seed, sample_rate_hz)
        in_its_life = [Fault(kind, start_s + begin_s, start_s + end_s) for begin_s, end_s, kind in faults]
        self.sample_rate_hz = sample_rate_hz
        self.description = f"simulated machine {seed}, {machine.shaft_hz:.1f} Hz shaft"
        self._render: Callable[[int, int], Float32] = Scenario(machine, in_its_life).render
        if loop_s is not None:
            self._render = _Loop(seed, sample_rate_hz, round(loop_s * sample_rate_hz)).render
        self._offset = round(start_s * sample_rate_hz)
        self._length = None if duration_s is None else round(duration_s * sample_rate_hz)
        self._realtime = pace == "realtime"
        self._position = 0
        self.ended = self._length == 0
        self._anchor = Anchor.now(0, sample_rate_hz)
        self._begun_s = time.monotonic()
        log.info(
            "simulated stream begins",
            seed=seed,
            at=self.time_of(0).isoformat(),
            faults=[f"{kind} {begin_s:g} to {end_s:g} s" for begin_s, end_s, kind in faults],
        )

    def read(self) -> AudioBlock | None:
        """The sound that is due and was not read yet, at most half a second of it; None if there is none."""
        n = round(_LONGEST_S * self.sample_rate_hz)
        if self._realtime:
            due = int((time.monotonic() - self._begun_s) * self.sample_rate_hz) - self._position
            if due < _SHORTEST_S * self.sample_rate_hz:
                return None
            n = min(n, due)
        if self._length is not None:
            n = min(n, self._length - self._position)
            if n <= 0:
                return None
        start = self._position
        self._position += n
        self.ended = self._position == self._length
        return AudioBlock(self._render(self._offset + start, n)[:, None], start)

    def time_of(self, index: int) -> datetime:
        """UTC of an absolute sample index, at real-time pace counted from the construction."""
        return self._anchor.time_of(index)

    def close(self) -> None:
        """Nothing to give back."""


class _Loop:
    """Some seconds of a machine without faults, over and over."""

    def __init__(self, seed: int, sample_rate_hz: int, length: int) -> None:
        self._sound = _loop_sound(seed, sample_rate_hz, length)

    def render(self, start_sample: int, n: int) -> Float32:
        """Samples start_sample to start_sample + n, (n,), an array of its own."""
        at = start_sample % len(self._sound)
        if at + n <= len(self._sound):
            return self._sound[at : at + n].copy()
        return np.take(self._sound, np.arange(at, at + n), mode="wrap")


@cache
def _loop_sound(seed: int, sample_rate_hz: int, length: int) -> Float32:
    """(length,) samples whose end goes over into their beginning; shared by all who loop them."""
    seam = round(_SEAM_S * sample_rate_hz)
    sound = SimulatedMachine(seed, sample_rate_hz).sound((length + seam) / sample_rate_hz)
    fade = np.linspace(0, np.pi / 2, seam, dtype=np.float32)
    looped = sound[:length]
    looped[:seam] = np.sin(fade) * looped[:seam] + np.cos(fade) * sound[length : length + seam]
    looped.setflags(write=False)
    return looped
