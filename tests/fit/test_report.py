"""The report of fit-normal as a file: whole, alone, safe, and with the words that it must have."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from echo_stream.alarm.calibration import Calibration
from echo_stream.core.checks import Check, Verdict
from echo_stream.core.text import duration_text
from echo_stream.core.types import AlarmLevel
from echo_stream.fit import report as words
from echo_stream.fit.summary import Fitted
from echo_stream.pipeline.factory import trip_levels
from tests.fit.test_fit import CONFIG, Project, knock, pump, write
from tests.support.command import command, program

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags must close in order; keeps texts, sources and links."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "action", "srcset"}]
        if tag == "img":
            assert dict(attrs)["alt"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """A fit with a knock that was left out, of a machine with a dangerous name."""
    text = CONFIG.replace("name: Pump 3", 'name: "<script>alert(1)</script> & Söhne"')
    project = Project(tmp_path_factory.mktemp("report"), text)
    sound = knock(pump(90.0), 41.5)
    return project.fit(
        *[write(project.folder, f"part{i}", part) for i, part in enumerate(np.split(sound, 3))]
    )


@pytest.fixture(scope="module")
def page(fitted: Fitted) -> Page:
    return Page(fitted.report.read_text(encoding="utf-8"))


def test_it_lies_beside_the_bank_and_cannot_be_changed(fitted: Fitted) -> None:
    assert fitted.report == fitted.path.with_suffix(".versions") / "b1.html"
    assert fitted.report.stat().st_mode & 0o222 == 0


def test_it_needs_nothing_from_anywhere(page: Page, fitted: Fitted) -> None:
    assert page.loads
    assert all(load.startswith("data:image/png;base64,") for load in page.loads)
    html = fitted.report.read_text(encoding="utf-8")
    assert not re.search(r"https?://|url\(|@import", html)
    assert page.tags & {"script", "link", "iframe", "object"} == set()
    assert fitted.report.stat().st_size < 2_000_000


def test_names_are_shown_and_not_run(page: Page) -> None:
    assert "<script>alert(1)</script> & Söhne can be watched now" in page.text


def test_the_first_screen_is_in_plain_words(page: Page, fitted: Fitted) -> None:
    first = page.text[: page.text.index("Was the recording good?")]
    for said in (
        "can be watched now; there is something to look at",  # 90 s are short
        "What will be announced, and how soon",
        "after 7 s from the first minute on",
        "after 10 s from the second minute on",
        "Nothing is said of: what is over within 7 s",
        "False alarms to expect set to 1 a month",
        "Known now: 8",
        "Known after a day",
        "19 times in 20",
        "Would more listening help?",
        "echo-stream bank extend --machine pump3",
        "1 short sound",
        "check that it was not the machine",
        "operating state normal",
    ):
        assert said in first
    for jargon in ("quantile", "Pareto", "posterior", "p-value", "held-out", "standard deviation"):
        assert jargon not in page.text


def test_all_checks_and_what_was_left_out_are_told(page: Page, fitted: Fitted) -> None:
    for check in fitted.checks:
        assert check.finding in page.text
        assert (check.advice in page.text) or check.verdict == Verdict.OK
    (left_out,) = fitted.left_out
    assert Path(left_out.recording).name == "part1.wav", "of several recordings, the one that has the knock"
    assert left_out.start_s <= 41.5 - 30 <= left_out.end_s
    assert f"{left_out.recording} {left_out.score:.1f} {left_out.level_dbfs:.0f} dBFS" in page.text


def test_the_pictures_are_pictures(page: Page) -> None:
    assert len(page.loads) == 4
    for load in page.loads:
        picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(load.partition(",")[2])))
        height, width = picture.shape[:2]
        assert width >= 1000
        assert height >= 400
        assert picture[..., :3].std() > 0.02  # something is drawn


def test_it_says_what_the_daemon_will_do(page: Page, fitted: Fitted, tmp_path: Path) -> None:
    """The levels on the page are those that the bank gives the daemon."""
    from echo_stream.detect.bank import NormalBank

    machine = Project(tmp_path).machine
    levels = trip_levels(machine, Calibration.of(NormalBank.load(fitted.path).calibration))
    for level in AlarmLevel:
        assert levels[level] == fitted.levels[level]
        after = duration_text(machine.alarm.on_delays_s[level])
        assert f"{levels[level].level:.1f} for {after}" in page.text


def test_words_for_a_good_promise_and_for_a_hopeless_one(fitted: Fitted) -> None:
    from dataclasses import replace

    def cards(minutes_needed: float) -> dict[str, tuple[str, str]]:
        trip = replace(fitted.levels[AlarmLevel.ALARM], minutes_needed=minutes_needed)
        told = replace(fitted, levels={**fitted.levels, AlarmLevel.ALARM: trip})
        return {heading: (figure, explained) for heading, figure, explained in words.cards(told)}

    assert cards(0.0)["Would more listening help?"] == ("no", "The promise is good as it is.")
    assert cards(90.0)["Would more listening help?"][0] == "90 min more"
    assert cards(60_000.0)["Would more listening help?"][0] == "hardly"


def test_a_verdict_without_remarks(fitted: Fitted) -> None:
    from dataclasses import replace

    good = replace(fitted, title="Pump", checks=[Check("Length", Verdict.OK, "10 min of sound")])
    assert words.verdict(good) == "Pump can be watched now"
    assert words.verdict(replace(good, accepted=False)) == "A proposal for Pump: nothing has changed yet"


def test_the_commands(tmp_path: Path) -> None:
    """From the first fit to the rollback, as a person types it; each says what a program needs, too."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    write(tmp_path, "a", pump(60.0))
    write(tmp_path, "b", pump(50.0, start_s=200))

    def told(*words: str) -> str:
        result = command(*words, "-m", "pump3", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return result.stdout

    listed = program("bank", "list", "-m", "pump3", cwd=tmp_path).stdout
    assert "no bank yet: echo-stream fit-normal --machine pump3" in listed
    (tmp_path / "banks/pump3.versions/b1.html").mkdir(parents=True)  # the report cannot be written there
    first = json.loads(told("fit-normal", "--recordings", "a.wav", "--json"))
    assert first["bank"] == {"id": "b1", "path": "banks/pump3.safetensors", "accepted": True}
    assert [c["verdict"] for c in first["checks"] if c["name"] == "Report"] == ["warn"]
    assert first["verdict"] == "warn"
    assert {c["name"] for c in first["checks"]} >= {"Length", "Clipping", "Sensitivity", "Promise"}
    words = ("bank", "extend", "-m", "pump3", "--recordings", "b.wav", "--json")
    second = json.loads(program(*words, cwd=tmp_path).stdout)
    assert (second["bank"]["id"], second["bank"]["accepted"]) == ("b2", False)
    assert second["change"]["base"] == "b1"
    assert (tmp_path / second["report"]).is_file()
    assert "Report" not in {c["name"] for c in second["checks"]}
    versions = json.loads(told("bank", "list", "--json"))
    assert [(bank["id"], bank["accepted"]) for bank in versions] == [("b1", True), ("b2", False)]
    assert "b2 is in use instead of b1" in told("bank", "accept", "b2")
    shown = json.loads(told("bank", "show", "--json"))
    assert shown["id"] == "b2"
    assert [session["id"] for session in shown["sessions"]] == ["b1", "b2"]
    assert shown["sample_rate_hz"] == 8_000
    assert shown["by"]
    assert shown["software_version"]
    assert "b.wav" in told("bank", "show", "b2")
    assert "b1 is in use again instead of b2" in told("bank", "rollback")
    assert told("bank", "list").splitlines()[0].startswith("* b1 ")
    text = CONFIG.replace("machines:", "encoder: {kind: spectral, window_s: 1.0, hop_s: 0.5}\nmachines:")
    (tmp_path / "config.yaml").write_text(text)
    refused = command("bank", "accept", "b2", "-m", "pump3", cwd=tmp_path)
    assert refused.returncode == 78
    assert "window_s" in refused.stderr
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "banks/pump3.versions/b2.safetensors").unlink()  # what is kept is read only
    (tmp_path / "banks/pump3.versions/b2.safetensors").write_text("damaged")
    assert "b2" in told("bank", "list")
    refused = command("bank", "accept", "b2", "-m", "pump3", cwd=tmp_path)
    assert refused.returncode == 1
    assert "b2.safetensors" in refused.stderr
