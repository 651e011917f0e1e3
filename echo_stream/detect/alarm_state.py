"""The table of an alarm's states, after ISA-18.2 and OPC UA Part 9. Pure; pipeline thread only.

| from | when | to |
|---|---|---|
| NORMAL | condition true for on-delay | UNACK |
| UNACK | ack | ACKED |
| UNACK | clear for off-delay | RTN_UNACK (latching: LATCHED_UNACK) |
| ACKED | clear for off-delay | NORMAL (latching: LATCHED_ACKED) |
| RTN_UNACK | ack / true again | NORMAL / UNACK |
| LATCHED_UNACK | ack / true again | LATCHED_ACKED / UNACK |
| LATCHED_ACKED | reset / true again | NORMAL / UNACK |
| UNACK, ACKED | active for another realarm_s | UNACK, announced again |
| any | shelve for a time | SHELVED |
| any | machine off, or sensor fault | SUPPRESSED |
| any | operator | OUT_OF_SERVICE |

The last three lie over the others and can hold together; the strongest shows: OUT_OF_SERVICE, SUPPRESSED,
SHELVED. When the last of them ends the state is decided anew: UNACK where the condition is active, otherwise
NORMAL; but a latch is undone by a reset alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from echo_stream.types import AlarmState

S = AlarmState
ACKNOWLEDGED = {S.UNACK: S.ACKED, S.RTN_UNACK: S.NORMAL, S.LATCHED_UNACK: S.LATCHED_ACKED}
CLEARED = {S.UNACK: S.RTN_UNACK, S.ACKED: S.NORMAL}
LATCHED = {S.UNACK: S.LATCHED_UNACK, S.ACKED: S.LATCHED_ACKED}


@dataclass(slots=True)
class Standing:
    """Where an alarm stands."""

    latching: bool
    below: AlarmState = S.NORMAL
    """The state that SHELVED, SUPPRESSED and OUT_OF_SERVICE lie over."""
    shelved_until: int | None = None
    """Absolute sample index."""
    suppressed_by: set[str] = field(default_factory=set)
    """For which reasons."""
    out_of_service: bool = False

    @property
    def state(self) -> AlarmState:
        """What an operator sees."""
        if self.out_of_service:
            return S.OUT_OF_SERVICE
        if self.suppressed_by:
            return S.SUPPRESSED
        return self.below if self.shelved_until is None else S.SHELVED

    @property
    def raised(self) -> bool:
        """It has been announced, and has not cleared."""
        return self.below in (S.UNACK, S.ACKED)

    def follow(self, active: bool) -> str:
        """Move by the condition alone; returns the cause, should it have moved."""
        if active and not self.raised:
            self.below = S.UNACK
            return "condition"
        if self.raised and not active:
            self.below = (LATCHED if self.latching else CLEARED)[self.below]
        return "clear"

    def decide_anew(self, active: bool) -> None:
        """One of the three that lie over the others has ended; while another holds, nothing moves."""
        if self.state is not self.below:
            return
        latched = LATCHED.get(self.below, self.below)
        keeps = self.latching and latched in LATCHED.values()
        self.below = S.UNACK if active else latched if keeps else S.NORMAL
