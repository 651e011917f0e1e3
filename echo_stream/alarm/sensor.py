"""The sensor watch says when a sensor is broken: that is no broken machine. Pipeline thread.

Each fault has a figure, a limit, and a condition of its own like an alarm's (dead-band, on-delay, off-delay).
The limits are fitted: what is far from *all* normal sound of this machine. A sensor fault suppresses the
machine's alarms only where it explains the score (docs/adr/0040): a dead or stuck input, hum in place of the
machine, clipping of a signal that was near full scale before. A level alone explains nothing: a machine that
is 30 dB louder than normal has an alarm of its own, and both are said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from echo_stream.alarm.condition import Condition
from echo_stream.core.calibration import SensorLimits
from echo_stream.core.errors import EchoStreamError
from echo_stream.core.types import SensorEvent, SensorFault

SENSOR = "sensor"
"""The reason under which a sensor's fault suppresses the machine's alarms."""
CLIPPED_SHARE = 0.2
QUIET_DB, LOUD_DB = 20.0, 30.0
"""Below the quietest, above the loudest normal window."""
LEVEL_BAND_DB = 3.0
CLIPPED_RISE_DB = 12.0
"""Clipping with a level that rose by more than this is more than a gain that was turned up."""
REPLACED_DB = 6.0
"""What is not hum must lie so far below the quietest normal window: hum in the place of the machine."""
SPECTRUM_SHARE = 0.9
"""Of the power in hum, or in rumble; less than this is no broken cable."""
SPECTRUM_BAND = 0.05


@dataclass(frozen=True, slots=True)
class SensorFigures:
    """What one window says about the sensor."""

    level_dbfs: float
    """Root mean square without the mean."""
    clipped_share: float = 0.0
    """Of the samples, 0 to 1."""
    dead: bool = False
    stuck: bool = False
    hum_share: float = 0.0
    """Of the power, 0 to 1 (`sensor_spectrum`)."""
    rumble_share: float = 0.0


class SensorWatch:
    """Says when the sensor of one machine goes wrong and when it is well again.

    Args:
        machine: Id of the machine; goes into the events.
        sample_rate_hz: Of the windows' sample indices.
        limits: What normal sound of this machine is like.
        on_delay_s: A fault must last so long; less than the on-delay of the machine's alarms, so that it
            suppresses them before they trip.
        off_delay_s: The sensor must be well for so long.
    """

    def __init__(
        self,
        machine: str,
        *,
        sample_rate_hz: int,
        limits: SensorLimits,
        on_delay_s: float = 2.0,
        off_delay_s: float = 5.0,
    ) -> None:
        self.machine = machine
        on_delay, off_delay = round(on_delay_s * sample_rate_hz), round(off_delay_s * sample_rate_hz)
        too_quiet_db = QUIET_DB - limits.quietest_dbfs
        trips = {
            SensorFault.DEAD: (0.5, 0.25),
            SensorFault.STUCK: (0.5, 0.25),
            SensorFault.CLIPPED: (CLIPPED_SHARE, CLIPPED_SHARE / 2),
            SensorFault.QUIET: (too_quiet_db, too_quiet_db - LEVEL_BAND_DB),
            SensorFault.LOUD: (limits.loudest_dbfs + LOUD_DB, limits.loudest_dbfs + LOUD_DB - LEVEL_BAND_DB),
            SensorFault.HUM: _spectrum_limit(limits.most_hum),
            SensorFault.RUMBLE: _spectrum_limit(limits.most_rumble),
        }
        self._limits = limits
        self._conditions = {
            fault: Condition(trip, clear, on_delay=on_delay, off_delay=off_delay)
            for fault, (trip, clear) in trips.items()
        }
        self._masks = {
            fault: Condition(*trips[fault], on_delay=on_delay, off_delay=off_delay)
            for fault in (SensorFault.DEAD, SensorFault.STUCK, SensorFault.CLIPPED, SensorFault.HUM)
        }

    @property
    def fault(self) -> SensorFault | None:
        """What is wrong now; of several the one that hides the others."""
        return next((fault for fault, condition in self._conditions.items() if condition.active), None)

    @property
    def masks_machine(self) -> bool:
        """The fault explains an abnormal score, so that alarms of the machine are suppressed."""
        return any(condition.active for condition in self._masks.values())

    @property
    def onset(self) -> int | None:
        """Absolute sample index since when something has been wrong; None where nothing is."""
        return min((c.onset for c in self._conditions.values() if c.onset is not None), default=None)

    def step(self, figures: SensorFigures, start: int, end: int) -> list[SensorEvent]:
        """Take the next window into account.

        Args:
            figures: Of the window.
            start: Absolute index of its first sample.
            end: Absolute index after its last sample; later than that of the window before.

        Raises:
            ValueError: A figure is not finite, or the window is not later than the one before.
        """
        before = self.fault
        values = {
            SensorFault.DEAD: float(figures.dead),
            SensorFault.STUCK: float(figures.stuck),
            SensorFault.CLIPPED: figures.clipped_share,
            SensorFault.QUIET: -figures.level_dbfs,
            SensorFault.LOUD: figures.level_dbfs,
            SensorFault.HUM: figures.hum_share,
            SensorFault.RUMBLE: figures.rumble_share,
        }
        for fault, value in values.items():
            self._conditions[fault].step(value, start, end)
            if fault in self._masks:
                self._masks[fault].step(value if self._explains(fault, figures) else 0.0, start, end)
        if self.fault is before:
            return []
        return [SensorEvent(self.machine, before, self.fault, at=end, onset=self.onset)]

    def _explains(self, fault: SensorFault, figures: SensorFigures) -> bool:
        """Whether an abnormal score of this window follows from the fault, so that it says nothing more."""
        if fault is SensorFault.CLIPPED:
            return figures.level_dbfs - self._limits.loudest_dbfs <= CLIPPED_RISE_DB
        if fault is SensorFault.HUM:
            rest_dbfs = figures.level_dbfs + 10 * math.log10(max(1e-9, 1.0 - figures.hum_share))
            return rest_dbfs < self._limits.quietest_dbfs - REPLACED_DB
        return True

    def snapshot(self) -> dict[str, Any]:
        """What is wrong, as plain JSON; pending delays are left out."""
        return {
            "active": [fault.value for fault, c in self._conditions.items() if c.active],
            "masks": [fault.value for fault, c in self._masks.items() if c.active],
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on where a snapshot was taken; announces nothing. Since when is not remembered: from here on.

        Raises:
            EchoStreamError: It is damaged.
        """
        try:
            active = {SensorFault(name) for name in snapshot["active"]}
            masks = {SensorFault(name) for name in snapshot.get("masks", snapshot["active"])}
        except (KeyError, TypeError, ValueError) as error:
            raise EchoStreamError(
                f"saved sensor state of {self.machine} is damaged: {error!r}",
                "remove it, and the sensor counts as well at first",
            ) from error
        for conditions, names in ((self._conditions, active), (self._masks, masks)):
            for fault, condition in conditions.items():
                condition.forget()
                condition.active, condition.onset = (True, 0) if fault in names else (False, None)


def _spectrum_limit(most: float) -> tuple[float, float]:
    """Trip and clear for a share of the power: half way from the largest normal share to all of it."""
    trip = max(SPECTRUM_SHARE, (1.0 + most) / 2)
    return trip, trip - SPECTRUM_BAND
