"""What a machine's reference hears decides whether a change comes from elsewhere. Pipeline thread, no lock.

A window that changed more at the reference than at the machine, each relative to its own last minutes, says
nothing of the machine: it is held, as is the warning that it would have led to. A hold is bounded in time,
and there is none while the reference is silent, lost, or at fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from echo_stream.core.log import get_logger
from echo_stream.core.types import Score, Window
from echo_stream.detect.rises import Rises, more_db

log = get_logger()

AUTO = "auto"
"""As a reference: each of the other machines of this PC."""
ELSEWHERE = "elsewhere"
"""The reason for which a warning is suppressed."""
LONGEST_S = 60.0
"""What goes on for longer counts, wherever it is louder."""
QUIET_S = 3.0
"""The time begins anew when the machine has sounded normal for so long."""


@dataclass(slots=True)
class Surroundings:
    """Of one machine: who tells what comes from elsewhere, and what of its own windows is held for that."""

    rises: Rises
    """What became louder here, for this machine and for those whose reference it is."""
    warning_delay_s: float
    """On-delay of the machine's warning."""
    reference: str | None = None
    """Id of the machine that tells; `auto`: all others; None: there is none, and nothing is held."""
    warnings: int = 0
    """That were held since the start."""
    holds_warning: bool = False
    """What is held now would have become a warning."""
    why: str = ""
    """In words; of the newest window that was held."""
    _began: int | None = None
    _over_since: int | None = None
    _quiet_from: int | None = None

    def step(
        self, window: Window, score: Score, louder: tuple[str, float], *, trip: float, clear: float
    ) -> bool:
        """Whether the next window is held.

        Args:
            window: What was scored.
            score: What came out.
            louder: From `louder_at`.
            trip: Level of the machine's warning.
            clear: Of the machine's warning.
        """
        rate = window.sample_rate_hz
        self._take_quiet(window, normal=score.value <= clear)
        name, more = louder
        held = bool(name) and score.value > clear
        if held and self._began is None:
            self._began = window.start
        if not held or window.end - (self._began or 0) > LONGEST_S * rate:
            self._over_since, self.holds_warning = None, False
            return False
        self.why = f"sound from elsewhere: it changed more at {name}, by {more:.1f} dB"
        if score.value > trip and self._over_since is None:
            self._over_since = window.end
        would = self._over_since is not None and window.end - self._over_since >= self.warning_delay_s * rate
        if would and not self.holds_warning:
            self.holds_warning = True
            self.warnings += 1
            log.info(f"warning held: {self.why}", machine=window.machine)
        return True

    def _take_quiet(self, window: Window, *, normal: bool) -> None:
        if not normal:
            self._quiet_from = None
        elif self._quiet_from is None:
            self._quiet_from = window.start
        if self._quiet_from is not None and window.end - self._quiet_from >= QUIET_S * window.sample_rate_hz:
            self._began = None


Places = Mapping[str, Surroundings | None]
"""By machine id."""


def take_rises(windows: Iterable[Window], places: Places) -> None:
    """What became louder in the windows of a round, before any of them is judged.

    Args:
        windows: Of this round.
        places: By machine id.
    """
    asking = {machine: own.reference for machine, own in places.items() if own is not None and own.reference}
    wanted = asking.keys() | asking.values()
    for window in windows:
        own = places[window.machine]
        if own is not None and (window.machine in wanted or AUTO in wanted):
            own.rises.add(window)


def louder_at(window: Window, places: Places) -> tuple[str, float]:
    """The reference at which the sound of a window changed more than at its machine, and by how many dB.

    Args:
        window: Of the machine.
        places: By machine id; the machine's own among them.

    Returns:
        ("", 0) where there is none.
    """
    own = places.get(window.machine)
    if own is None or own.reference is None:
        return "", 0.0
    length_s = (window.end - window.start) / window.sample_rate_hz
    here = own.rises.near(window.captured_at, 0.0)
    if here is None:
        return "", 0.0
    found = [
        (more_db(here, there), name)
        for name in _references(window.machine, own.reference, places)
        if (other := places[name]) is not None
        and (there := other.rises.near(window.captured_at, length_s)) is not None
    ]
    more, name = max(found, default=(0.0, ""))
    return (name, more) if more > 0 else ("", 0.0)


def _references(machine: str, reference: str | None, places: Places) -> Iterator[str]:
    if reference == AUTO:
        yield from (name for name in places if name != machine)
    elif reference is not None and reference in places:
        yield reference
