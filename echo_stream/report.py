"""fit-normal's report: one HTML file for the person who looks after the machine.

The first screen is for somebody who never saw statistics; figures and pictures follow. Nothing is fetched
from anywhere: the pictures are inside, so that the file can be mailed, printed and kept with the bank.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from echo_stream import report_words as words
from echo_stream.calibrate_learn import Learnt
from echo_stream.calibrate_told import Fitted
from echo_stream.config import AlarmSettings
from echo_stream.deliver.spectra import NormalSpectrum
from echo_stream.detect import bankfile
from echo_stream.detect.enrolment import Check, Verdict
from echo_stream.report_charts import bands_figure, scores_figure
from echo_stream.report_heard import heard_figure
from echo_stream.report_style import as_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = {Verdict.GOOD: "good", Verdict.FAIR: "fair", Verdict.BAD: "bad"}


def write_report(fitted: Fitted, learnt: Learnt, alarm: AlarmSettings) -> None:
    """Write the report of a version beside it, whole or not at all.

    Raises:
        BankError: the file cannot be written.
    """
    bankfile.write(fitted.report, page(fitted, learnt, alarm).encode())
    fitted.report.chmod(0o444)


def page(fitted: Fitted, learnt: Learnt, alarm: AlarmSettings) -> str:
    """The whole page."""
    template = Template(files("echo_stream").joinpath("report.html").read_text(encoding="utf-8"))
    heard = heard_figure(learnt.heard, learnt.trimming, learnt.scores, fitted.levels, learnt.bank.window_s)
    return template.substitute(
        title=escape(fitted.title),
        when=learnt.bank.created[:16].replace("T", " ") + " UTC",
        bank_id=fitted.bank_id,
        use="in use" if fitted.accepted else "a proposal, not in use",
        verdict_class="fair" if words.remarks(fitted) else "good",
        verdict=escape(words.verdict(fitted)),
        verdict_words=words.verdict_in_words(fitted),
        cards="".join(_card(*card) for card in words.cards(fitted)),
        checks="".join(map(_check, fitted.checks)),
        change=_change(fitted),
        heard_picture=as_data(heard),
        heard_words=words.heard(fitted),
        left_out=_left_out(fitted),
        levels_words=words.levels(fitted, alarm),
        scores_picture=as_data(_scores_figure(fitted, learnt, alarm)),
        bands_picture=as_data(_bands_figure(fitted, learnt)),
        facts="".join(_fact(*fact) for fact in words.facts(fitted, learnt.bank)),
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
    spectra = [
        (each.session.condition, NormalSpectrum.from_json(each.figures["spectrum"]))
        for each in (*learnt.kept, learnt.enrolment)
    ]
    marked = [(str(i), each.band_hz) for i, each in enumerate(fitted.left_out, start=1)]
    return bands_figure(spectra, np.asarray(learnt.bank.bands_hz, np.float64), marked)


def _change(fitted: Fitted) -> str:
    lines = words.change(fitted)
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return (
        "<section><h2>What would change</h2><p>Was the machine well while it was listened to? Then the new "
        f"sound may be learnt, however strange it was to the bank before.</p><ul>{items}</ul></section>"
    )


def _left_out(fitted: Fitted) -> str:
    head, *rows = words.left_out(fitted)
    if not rows:
        return ""
    cells = "".join(f"<th>{escape(word)}</th>" for word in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<h3>Left out</h3><div class="wide"><table><tr>{cells}</tr>{body}</table></div>'


def _card(heading: str, figure: str, explained: str) -> str:
    return f'<section><h2>{heading}</h2><p class="figure">{escape(figure)}</p><p>{explained}</p></section>'


def _check(check: Check) -> str:
    advice = f'<br><span class="soft">{escape(check.advice)}</span>' if check.verdict != Verdict.GOOD else ""
    return (
        f'<tr class="{CLASSES[check.verdict]}"><td><span class="light">{check.verdict.value}</span></td>'
        f"<th>{escape(check.name)}</th><td>{escape(check.finding)}{advice}</td></tr>"
    )


def _fact(name: str, value: str) -> str:
    return f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
