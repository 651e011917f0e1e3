"""Runs the daemon with simulated machines that repeat their first 30 s: their sound costs little.

    python -m benchmarks.looped

The configuration has no such key, because nobody but a benchmark wants a machine like that.
"""

from __future__ import annotations

from typing import Any

LOOP_S = 30


def loop_simulated_sources() -> None:
    """Make every simulated source of this process that has no faults a loop."""
    from echo_stream.capture import simulator  # noqa: PLC0415 - only the child is a daemon

    plain = simulator.Simulated

    def looped(seed: int, sample_rate_hz: int, faults: Any, **settings: Any) -> simulator.Simulated:
        return plain(seed, sample_rate_hz, faults, **settings, loop_s=None if faults else LOOP_S)

    vars(simulator)["Simulated"] = looped


if __name__ == "__main__":
    from echo_stream.daemon.daemon import run_daemon

    loop_simulated_sources()
    run_daemon()
