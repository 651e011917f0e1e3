"""What fit-normal's report says in words, for somebody who never saw statistics. Texts with tags are HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from echo_stream.calibrate_told import Fitted, change_in_words, hertz, number
from echo_stream.config import AlarmSettings
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.calibration import GOOD_ENOUGH
from echo_stream.detect.enrolment import Check, Verdict
from echo_stream.detect.session import Session
from echo_stream.detect.words import clock, in_words
from echo_stream.report_heard import MOST_BORDERS
from echo_stream.types import AlarmLevel

LISTENABLE_H = 100.0
"""Nobody listens for longer to make a promise better."""
MOST_NAMES = 8


def remarks(fitted: Fitted) -> list[Check]:
    """What a person should look at; the promise has a place of its own."""
    return [c for c in fitted.checks if c.verdict != Verdict.GOOD and c.name != "Promise"]


def verdict(fitted: Fitted) -> str:
    """The whole report in one line."""
    if not fitted.accepted:
        return f"A proposal for {fitted.title}: nothing has changed yet"
    if remarks(fitted):
        return f"{fitted.title} can be watched now; there is something to look at"
    return f"{fitted.title} can be watched now"


def verdict_in_words(fitted: Fitted) -> str:
    """What follows for the reader (HTML)."""
    states = ""
    if len(fitted.conditions) > 1:
        states = f", of the operating states {escape(', '.join(fitted.conditions))}"
    told = f"{in_words(fitted.minutes * 60)} of normal sound{states}{',' if states else ''} "
    if fitted.accepted:
        told += "are learnt. From now on echo-stream says so when the machine no longer sounds like that."
    else:
        command = _code(f"bank accept --machine {fitted.machine} {fitted.bank_id}")
        told += f"would be normal from then on. To use it: {command}."
    if found := remarks(fitted):
        told += f" To look at: <b>{escape('; '.join(check.finding for check in found))}</b>."
    return told


def cards(fitted: Fitted) -> list[tuple[str, str, str]]:
    """Heading, figure and explanation (HTML) of each."""
    return [
        ("False alarms to expect", *_false_alarms(fitted)),
        ("Would more listening help?", *_more(fitted)),
        ("Left out", *_left_out(fitted)),
        ("Learnt from", *_learnt_from(fitted)),
    ]


def _false_alarms(fitted: Fitted) -> tuple[str, str]:
    alarm = fitted.levels[AlarmLevel.ALARM]
    most = number(alarm.upper95_per_month)
    figure = f"about {number(alarm.expected_per_month)} a month"
    if fitted.minutes_needed <= 0:
        return figure, f"It could be more, but 19 times in 20 it is under {most} a month."
    return figure, (
        "It could be more. So little sound cannot prove it: all that is sure, 19 times in 20, is that it "
        f"will be <b>under {most} a month</b>."
    )


def _more(fitted: Fitted) -> tuple[str, str]:
    if fitted.minutes_needed <= 0:
        return "no", "The promise is good as it is."
    if fitted.minutes_needed > 60 * LISTENABLE_H:
        return "hardly", (
            "The sound of this machine varies a lot. A longer <code>on_delay_s</code> under "
            "<code>alarm</code> in the configuration helps more."
        )
    most = number(GOOD_ENOUGH * fitted.levels[AlarmLevel.ALARM].asked_per_month)
    command = f"bank extend --machine {fitted.machine} --minutes {fitted.minutes_needed:.0f}"
    more = in_words(fitted.minutes_needed * 60)
    return f"{more} more", f"would prove that it is under {most} a month. At any time: {_code(command)}"


def _left_out(fitted: Fitted) -> tuple[str, str]:
    count = len(fitted.left_out)
    if count == 0:
        return "nothing", "No knock, voice or door was noticed."
    seconds = in_words(sum(each.end_s - each.start_s for each in fitted.left_out))
    if count == 1:
        return "1 short sound", (
            f"{seconds} that sounded like nothing else, such as a knock or a voice. It is marked below: "
            "please check that it was not the machine."
        )
    return f"{count} short sounds", (
        f"{seconds} that sounded like nothing else, such as knocks or voices. They are marked below: "
        "please check that they were not the machine."
    )


def _learnt_from(fitted: Fitted) -> tuple[str, str]:
    session = fitted.session
    before_s = 60 * sum(each.minutes for each in fitted.kept_sessions)
    before = f"; and {in_words(before_s)} from before" if before_s else ""
    return in_words(session.minutes * 60), (
        f"{escape(session.device)}, operating state <b>{escape(session.condition)}</b>{before}"
    )


def heard(fitted: Fitted) -> str:
    """Below the picture of what was heard (HTML)."""
    told = "From top to bottom: the sound, its level, and the score of each window, judged by all the others."
    if fitted.left_out:
        told += (
            " Blue, with a number: left out; crosses are its scores, at the upper edge where they are beyond."
        )
    if any(check.name == "Disturbances" for check in remarks(fitted)):
        told += " Dotted: stands out, but was kept."
    if 1 < len(fitted.session.recordings) <= MOST_BORDERS:
        told += " Thin lines part the recordings."
    return f"{told} One dot above a line is no alarm yet: the score must stay there."


def left_out(fitted: Fitted) -> list[list[str]]:
    """A table of what was left out, its head first."""
    several = len(fitted.session.recordings) > 1
    head = ["", "when", *(["recording"] if several else []), "score", "level", "most at"]
    rows = [
        [
            str(i),
            f"{clock(each.start_s)} to {clock(each.end_s)}",
            *([each.recording] if several else []),
            f"{each.score:.1f}",
            f"{each.level_dbfs:.0f} dBFS",
            hertz(each.band_hz),
        ]
        for i, each in enumerate(fitted.left_out, start=1)
    ]
    return [head, *rows]


def levels(fitted: Fitted, alarm: AlarmSettings) -> str:
    """What a score, a warning and an alarm are (HTML)."""
    trip, warn = fitted.levels[AlarmLevel.ALARM], fitted.levels[AlarmLevel.WARNING]
    delays_s = alarm.on_delays_s
    return (
        "Each window gets a score: about 0 for normal sound, more for unusual sound. An <b>alarm</b> comes "
        f"when the score stays above <b>{trip.level:.1f}</b> for {in_words(delays_s[AlarmLevel.ALARM])}, a "
        f"<b>warning</b> when it stays above <b>{warn.level:.1f}</b> for "
        f"{in_words(delays_s[AlarmLevel.WARNING])}: a knock or a word is over by then. The levels follow "
        "from how many the configuration accepts: "
        f"{_count(alarm.false_alarms_per_month, 'false alarm')} a month, "
        f"{_count(alarm.warnings_per_week, 'false warning')} a week."
    )


def change(fitted: Fitted) -> list[str]:
    """What accepting an extended bank would change, as sentences."""
    return [f"{line[0].upper()}{line[1:]}." for line in change_in_words(fitted)]


def facts(fitted: Fitted, bank: NormalBank) -> list[tuple[str, str]]:
    """Name and value of what identifies the bank."""
    encoder = f"{bank.encoder.kind} version {bank.encoder.version}"
    if bank.encoder.weights_sha256:
        encoder += f", weights {bank.encoder.weights_sha256[:12]}"
    windows = f"{bank.window_s:g} s long, one every {bank.hop_s:g} s, {bank.sample_rate_hz} Hz"
    sessions = [*fitted.kept_sessions, fitted.session]
    return [
        ("Bank", f"{fitted.bank_id}, {fitted.path}"),
        ("Machine", f"{fitted.title} ({fitted.machine})"),
        ("Encoder", encoder),
        ("Windows", windows),
        ("Software", f"echo-stream {bank.software_version}"),
        *((f"Learnt: {session.condition}", _session(session)) for session in sessions),
    ]


def _session(session: Session) -> str:
    heard_of = f"{in_words(session.minutes * 60)}, {session.windows} windows"
    enrolled = f"enrolled {session.heard_at} by {session.by} on {session.on}"
    return f"{heard_of}, from {names(session.recordings)}; {enrolled}"


def names(recordings: Sequence[str]) -> str:
    """The first of them, and how many more."""
    more = len(recordings) - MOST_NAMES
    return ", ".join(recordings[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _count(value: float, what: str) -> str:
    return f"{number(value)} {what}{'' if value == 1 else 's'}"


def _code(command: str) -> str:
    return f"<code>echo-stream {escape(command)}</code>"
