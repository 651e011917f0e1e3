"""PortAudio's callback: what it keeps, and what it makes of an overflow."""

from __future__ import annotations

import numpy as np

from echo_stream.capture.microphone import Inlet


def test_an_overflow_is_a_gap_of_the_time_that_passed() -> None:
    now_s = 100.0
    inlet = Inlet(1000, 1, lambda: now_s)
    sound = np.ones((50, 2), np.float32)  # the device has a channel more than anybody needs
    now_s = 100.05
    inlet.on_audio(sound, False)
    now_s = 100.45  # 0.4 s later, of which the last 0.05 s came: 0.35 s are lost
    inlet.on_audio(sound, True)
    first, second = inlet.ring.read(), inlet.ring.read()
    assert first is not None
    assert second is not None
    assert (first.start, first.gap, first.samples.shape) == (0, False, (50, 1))
    assert (second.start, second.gap) == (50 + 350, True)
    assert inlet.heard == (100.45, 450)
    assert inlet.ring.lost_samples == 350


def test_an_overflow_that_the_clock_does_not_show_is_still_a_gap() -> None:
    inlet = Inlet(1000, 1, lambda: 100.0)
    inlet.on_audio(np.ones((50, 1), np.float32), True)
    block = inlet.ring.read()
    assert block is not None
    assert (block.start, block.gap, inlet.ring.lost_samples) == (1, True, 1)
