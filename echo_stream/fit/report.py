"""The report of a fit is one HTML file for the person who looks after the machine, who never saw statistics.

The first screen is a verdict; figures and pictures follow. Nothing is fetched from anywhere: the pictures are
inside, so that the file can be mailed, printed and kept with the bank. Texts with tags are HTML, all others
are escaped by the template.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from echo_stream.alarm.calibration import GOOD_ENOUGH, Calibration, TripLevel, poisson_upper
from echo_stream.alarm.step import DEVIATIONS, SMALLEST
from echo_stream.alarm.ways import LEAST_PAST_S, WAYS, WITHOUT_CHANGE, WITHOUT_CHANGE_S, Timing
from echo_stream.config.schema import AlarmSettings
from echo_stream.core.checks import Check, Verdict, worst
from echo_stream.core.sensitivity import BLIND_DB
from echo_stream.core.text import DAYS_A_MONTH, clock, duration_text
from echo_stream.core.types import AlarmLevel
from echo_stream.detect import bank_file as bankfile
from echo_stream.detect.bank import NormalBank
from echo_stream.fit.learn import Learnt
from echo_stream.fit.report_charts import (
    MOST_BORDERS,
    as_data,
    bands_figure,
    recordings_figure,
    scores_figure,
    sensitivity_figure,
)
from echo_stream.fit.session import Session
from echo_stream.fit.summary import Fitted, change_text, hertz, names, number
from echo_stream.history.sample import NEEDED_DAYS, NEEDED_H

A_DAY_PROVES = poisson_upper(0) * DAYS_A_MONTH

LISTENABLE_H = 10.0
"""Nobody listens for longer to make a promise better."""


def remarks(fitted: Fitted) -> list[Check]:
    """What a person should look at; the promise has a place of its own."""
    return [c for c in fitted.checks if c.verdict != Verdict.OK and c.name != "Promise"]


def verdict(fitted: Fitted) -> str:
    """The whole report in one line."""
    if not fitted.accepted:
        return f"A proposal for {fitted.title}: nothing has changed yet"
    if worst(remarks(fitted)) is Verdict.FAIL:
        return f"{fitted.title} can hardly be watched with this bank"
    if remarks(fitted):
        return f"{fitted.title} can be watched now; there is something to look at"
    return f"{fitted.title} can be watched now"


def verdict_text(fitted: Fitted) -> str:
    """What follows for the reader (HTML)."""
    states = ""
    if len(fitted.conditions) > 1:
        states = f", of the operating states {escape(', '.join(fitted.conditions))}"
    text = f"{duration_text(fitted.minutes * 60)} of normal sound{states}{',' if states else ''} "
    if fitted.accepted:
        text += "are learnt. From now on echo-stream says so when the machine no longer sounds like that."
    else:
        command = _code(f"bank accept --machine {fitted.machine} {fitted.bank_id}")
        text += f"would be normal from then on. To use it: {command}."
    if found := remarks(fitted):
        text += f" To look at: <b>{escape('; '.join(check.finding for check in found))}</b>."
    return text


def cards(fitted: Fitted) -> list[tuple[str, str, str]]:
    """Heading, figure and explanation (HTML) of each."""
    return [
        ("What will be noticed", *_noticed(fitted)),
        ("False alarms to expect", *_false_alarms(fitted)),
        ("Would more listening help?", *_more(fitted)),
        ("Left out", *_left_out(fitted)),
        ("Learnt from", *_learnt_from(fitted)),
        ("On probation", *_probation(fitted)),
    ]


def _noticed(fitted: Fitted) -> tuple[str, str]:
    """From which rise on, and how soon."""
    found = fitted.sensitivity
    if found is None:
        return "not known", "There was too little sound, or none of a running machine, to try it."
    if found.blind:
        return "hardly anything", (
            f"<b>Nothing under {BLIND_DB:.0f} dB more would raise an alarm</b>, at any frequency."
        )
    soonest, latest = found.paths[0], found.paths[-1]
    after = duration_text(found.after_s[latest])
    steady, impacts = (found.middle_db(latest, impacts=impacts) for impacts in (False, True))
    figure = "loud faults only" if steady is None else f"{steady:.0f} dB more"
    blows = "hardly ever" if impacts is None else f"from {impacts:.0f} dB on"
    text = (
        f"Such a rise, in most parts of the spectrum, raises an alarm after {after} at best; blows {blows}."
    )
    strong = found.middle_db(soonest, impacts=False)
    if strong is not None and soonest != latest:
        text += f" {strong:.0f} dB are announced after {duration_text(found.after_s[soonest])}."
    return figure, text


def _false_alarms(fitted: Fitted) -> tuple[str, str]:
    alarm = fitted.levels[AlarmLevel.ALARM]
    most = number(alarm.upper95_per_month)
    figure = f"set to {number(WAYS * alarm.asked_per_month)} a month"
    return figure, (
        f"<b>Known now:</b> {duration_text(3600 * alarm.measured_hours)} of sound prove, 19 times in 20, no "
        "more "
        f"than under {most} a month of those that come within seconds. <b>Known after a day</b> of "
        "listening: "
        f"what this machine does by itself; a day without a false alarm proves under {number(A_DAY_PROVES)} "
        "a "
        f"month, a month of them under {number(poisson_upper(0))}. <code>echo-stream status</code> says it."
    )


def _more(fitted: Fitted) -> tuple[str, str]:
    if fitted.minutes_needed <= 0:
        return "no", "The promise is good as it is."
    if fitted.minutes_needed > 60 * LISTENABLE_H:
        return "hardly", (
            f"{duration_text(fitted.minutes_needed * 60)} would be needed for a proof beforehand. It need "
            "not be "
            "waited for: while it listens, echo-stream measures the same. What helps is normal sound of "
            "other "
            f"days and of every load: {_code(f'bank extend --machine {fitted.machine} --minutes 10')}"
        )
    most = number(GOOD_ENOUGH * fitted.levels[AlarmLevel.ALARM].asked_per_month)
    command = f"bank extend --machine {fitted.machine} --minutes {fitted.minutes_needed:.0f}"
    more = duration_text(fitted.minutes_needed * 60)
    return f"{more} more", f"would prove that it is under {most} a month. At any time: {_code(command)}"


def _left_out(fitted: Fitted) -> tuple[str, str]:
    count = len(fitted.left_out)
    if count == 0:
        return "nothing", "No knock, voice or door was noticed."
    seconds = duration_text(sum(each.end_s - each.start_s for each in fitted.left_out))
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
    before = f"; and {duration_text(before_s)} from before" if before_s else ""
    return duration_text(session.minutes * 60), (
        f"{escape(session.device)}, operating state <b>{escape(session.condition)}</b>{before}"
    )


def _probation(fitted: Fitted) -> tuple[str, str]:
    command = _code(f"bank propose --machine {fitted.machine}")
    return f"{NEEDED_H:.0f} h on {NEEDED_DAYS} days", (
        "must be heard before the bank knows this machine's days: shifts, weather, neighbours. "
        f"{_code('status')} says how much is missing; then {command} adds it, if you accept that."
    )


def caption(fitted: Fitted) -> str:
    """Below the spectrogram (HTML)."""
    text = "From top to bottom: the sound, its level, and the score of each window, judged by all the others."
    if fitted.left_out:
        text += (
            " Blue, with a number: left out; crosses are its scores, at the upper edge where they are beyond."
        )
    if any(check.name == "Disturbances" for check in remarks(fitted)):
        text += " Dotted: stands out, but was kept."
    if 1 < len(fitted.session.recordings) <= MOST_BORDERS:
        text += " Thin lines part the recordings."
    return f"{text} One dot above a line is no alarm yet: the score must stay there."


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
    alarm_for, warning_for = (
        duration_text(delays_s[level]) for level in (AlarmLevel.ALARM, AlarmLevel.WARNING)
    )
    return (
        "Each window gets a score: about 0 for normal sound, more for unusual sound. The quickest "
        "<b>alarm</b> "
        f"comes when the score changes and stays above <b>{trip.level:.1f}</b> for {alarm_for}, a "
        "<b>warning</b> "
        f"when it stays above <b>{warn.level:.1f}</b> for {warning_for}: a knock or a word is over by then. "
        "The "
        "levels are a little higher than what this sound kept up for so long, and follow from how many the "
        f"configuration accepts: {_count(alarm.false_alarms_per_month, 'false alarm')} a month, of which the "
        f"quickest may be a third, and {_count(alarm.warnings_per_week, 'false warning')} a week."
    )


def announcements(
    levels: Mapping[AlarmLevel, TripLevel], calibration: Calibration, alarm: AlarmSettings, hop_s: float
) -> list[tuple[str, str, str]]:
    """What becomes an alarm, how soon, and from when on (text); what does not comes last."""
    timing = Timing(1, hop_s, alarm.on_delays_s[AlarmLevel.ALARM], alarm.off_delay_s, alarm.dead_band)
    strong, floor = levels[AlarmLevel.ALARM].level, calibration.floor(timing.held_hops)
    least = max(floor, SMALLEST)
    return [
        (
            f"A sudden change far from normal, to a score over {strong:.1f}",
            f"after {duration_text(timing.on_delay_s)}",
            "from the first minute on",
        ),
        (
            f"A sudden change to a score over {least:.1f}, if it is also {SMALLEST:g} more than the minutes "
            "before "
            f"({DEVIATIONS:g} times their own unrest, where the machine is restless)",
            f"after {duration_text(timing.step_delay_s)}",
            "from the second minute on, and the surer the longer it has listened",
        ),
        (
            "Minutes that stay a little higher than this machine's own hours and days before",
            "after 3 to 20 min",
            f"after {duration_text(LEAST_PAST_S)} of listening, better after a day",
        ),
        (
            f"A machine that was never heard like this, with a score over {WITHOUT_CHANGE * strong:.1f}",
            f"after {duration_text(WITHOUT_CHANGE_S)}",
            "from the first minute on",
        ),
        (
            f"Nothing is said of: what is over within {duration_text(timing.on_delay_s)} (a warning at "
            "most); what "
            "sounds no stranger than the machine did while it was learnt; a fault that was there already "
            "then",
            "never",
            "",
        ),
    ]


def change(fitted: Fitted) -> list[str]:
    """What accepting an extended bank would change, as sentences."""
    return [f"{line[0].upper()}{line[1:]}." for line in change_text(fitted)]


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
    amount = f"{duration_text(session.minutes * 60)}, {session.windows} windows"
    enrolled = f"enrolled {session.heard_at} by {session.by} on {session.on}"
    return f"{amount}, from {names(session.recordings)}; {enrolled}"


def _count(value: float, what: str) -> str:
    return f"{number(value)} {what}{'' if value == 1 else 's'}"


def _code(command: str) -> str:
    return f"<code>echo-stream {escape(command)}</code>"


if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = {Verdict.OK: "good", Verdict.WARN: "fair", Verdict.FAIL: "bad"}
LABELS = {Verdict.OK: "good", Verdict.WARN: "look at this", Verdict.FAIL: "not usable"}


def write_report(fitted: Fitted, learnt: Learnt, alarm: AlarmSettings) -> None:
    """Write the report of a version beside it, whole or not at all.

    Raises:
        BankError: the file cannot be written.
    """
    bankfile.write(fitted.report, page(fitted, learnt, alarm).encode())
    fitted.report.chmod(0o444)


def page(fitted: Fitted, learnt: Learnt, alarm: AlarmSettings) -> str:
    """The whole page."""
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - only where a report is written

    page = files("echo_stream.fit").joinpath("report.html").read_text(encoding="utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(page)
    picture = recordings_figure(
        learnt.recordings, learnt.trimming, learnt.scores, fitted.levels, learnt.bank.window_s
    )
    return template.render(
        title=fitted.title,
        when=learnt.bank.created[:16].replace("T", " ") + " UTC",
        bank_id=fitted.bank_id,
        use="in use" if fitted.accepted else "a proposal, not in use",
        verdict_class=CLASSES[worst(remarks(fitted))],
        verdict=verdict(fitted),
        verdict_text=verdict_text(fitted),
        cards=cards(fitted),
        announced=announcements(fitted.levels, learnt.calibration, alarm, learnt.bank.hop_s),
        checks=fitted.checks,
        classes=CLASSES,
        labels=LABELS,
        change=change(fitted),
        recordings_picture=as_data(picture),
        recordings_caption=caption(fitted),
        left_out=left_out(fitted),
        levels_text=levels(fitted, alarm),
        scores_picture=as_data(_scores_figure(fitted, learnt, alarm)),
        sensitivity_picture=as_data(sensitivity_figure(fitted.sensitivity)) if fitted.sensitivity else "",
        bands_picture=as_data(_bands_figure(fitted, learnt)),
        facts=facts(fitted, learnt.bank),
    )


def _scores_figure(fitted: Fitted, learnt: Learnt, alarm: AlarmSettings) -> Figure:
    left_out = np.setdiff1d(np.arange(len(learnt.scores)), learnt.trimming.kept)
    return scores_figure(
        np.concatenate(learnt.calibration.runs),
        learnt.scores[left_out],
        fitted.levels,
        lambda asked: learnt.calibration.trip_level(
            asked, on_delay_s=alarm.on_delay_s, off_delay_s=alarm.off_delay_s, dead_band=alarm.dead_band
        ),
    )


def _bands_figure(fitted: Fitted, learnt: Learnt) -> Figure:
    calibration = learnt.bank.calibration
    spectra = list(calibration.spectra.items()) if calibration else []
    marked = [(str(i), each.band_hz) for i, each in enumerate(fitted.left_out, start=1)]
    return bands_figure(spectra, np.asarray(learnt.bank.bands_hz, np.float64), marked)
