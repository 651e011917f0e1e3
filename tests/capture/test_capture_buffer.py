"""PortAudio's callback: what it keeps, and what it makes of an overflow."""

from __future__ import annotations

import numpy as np

from echo_stream.capture.microphone import CaptureBuffer


def test_an_overflow_is_a_gap_of_the_time_that_passed() -> None:
    now_s = 100.0
    buffer = CaptureBuffer(1000, 1, lambda: now_s)
    sound = np.ones((50, 2), np.float32)  # the device has a channel more than anybody needs
    now_s = 100.05
    buffer.on_audio(sound, False)
    now_s = 100.45  # 0.4 s later, of which the last 0.05 s came: 0.35 s are lost
    buffer.on_audio(sound, True)
    first, second = buffer.ring.read(), buffer.ring.read()
    assert first is not None
    assert second is not None
    assert (first.start, first.gap, first.samples.shape) == (0, False, (50, 1))
    assert (second.start, second.gap) == (50 + 350, True)
    assert buffer.last_callback == (100.45, 450)
    assert buffer.ring.lost_samples == 350


def test_an_overflow_that_the_clock_does_not_show_is_still_a_gap() -> None:
    buffer = CaptureBuffer(1000, 1, lambda: 100.0)
    buffer.on_audio(np.ones((50, 1), np.float32), True)
    block = buffer.ring.read()
    assert block is not None
    assert (block.start, block.gap, buffer.ring.lost_samples) == (1, True, 1)
