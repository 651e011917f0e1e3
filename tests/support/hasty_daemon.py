"""The daemon with trials of seconds instead of a minute: `python -m tests.support.hasty_daemon run`."""

from __future__ import annotations

from echo_stream.cli import main
from echo_stream.daemon import trial

trial.WITHIN_S, trial.STEADY_S = 12.0, 3.0

if __name__ == "__main__":
    main()
