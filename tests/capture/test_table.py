"""Tables of samples: what is read is what was written, and what is wrong is named."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from echo_stream.capture.recording import Recording, find_recordings
from echo_stream.capture.table import Columns
from echo_stream.core.errors import SourceError
from echo_stream.core.types import Float32

SAMPLES = np.array([0.5, -12.25, 3.0, 0.0625], np.float32)
OTHER = np.array([9.0, 8.0, 7.0, 6.0], np.float32)


def read(path: Path, column: str | None = None) -> tuple[Float32, float, int]:
    """Samples, full scale and rate."""
    with closing(Recording(path, pace="fast", columns=Columns(12_000, column))) as recording:
        block = recording.read()
        assert block is not None
        assert recording.read() is None
        return block.samples[:, 0], recording.full_scale, recording.sample_rate_hz


def table(delimiter: str, heading: str = "", comma: bool = False) -> str:
    rows = [f"{other}{delimiter}{own}" for other, own in zip(OTHER, SAMPLES, strict=True)]
    text = "\n".join([heading, *rows] if heading else rows) + "\n"
    return text.replace(".", ",") if comma else text


@pytest.mark.parametrize(
    ("text", "column"),
    [
        (table(",", "time,DE_time"), "DE_time"),
        (table(",", '"time","DE_time"'), "2"),
        (table(","), "2"),
        (table(";", "time;DE_time"), "DE_time"),
        (table(";", "time;DE_time", comma=True), "DE_time"),
        (table("\t"), "2"),
        (table("  "), "2"),
        ("\ufeffg\r\n" + "".join(f"{each}\r\n" for each in SAMPLES), None),
    ],
)
def test_csv_is_read_as_it_is_written(tmp_path: Path, text: str, column: str | None) -> None:
    path = tmp_path / "vibration.csv"
    path.write_bytes(text.encode())
    samples, full_scale, rate = read(path, column)
    np.testing.assert_array_equal(samples, SAMPLES)
    assert (full_scale, rate) == (math.inf, 12_000)


def test_mat_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "97.MAT"
    savemat(path, {"DE_time": SAMPLES[:, None], "FE_time": OTHER[None], "RPM": 1796, "note": "text"})
    np.testing.assert_array_equal(read(path, "DE_time")[0], SAMPLES)
    np.testing.assert_array_equal(read(path, "FE_time")[0], OTHER)
    with pytest.raises(SourceError, match=r"97.MAT: 2 vectors, and none is named; .*DE_time, FE_time"):
        read(path)
    with pytest.raises(SourceError, match=r"97.MAT: there is no vector 'note'; expected one of: DE_time"):
        read(path, "note")
    savemat(path, {"x": SAMPLES, "fs": 12_000.0})
    np.testing.assert_array_equal(read(path)[0], SAMPLES)


def test_within_one_the_full_scale_is_one(tmp_path: Path) -> None:
    path = tmp_path / "quiet.csv"
    path.write_text("0.5\n-0.25\n")
    assert read(path)[1] == 1.0


@pytest.mark.parametrize(
    ("name", "content", "column", "said"),
    [
        ("a.csv", b"time,g\n1,2\n", "x", r"a.csv: there is no column 'x'; expected one of: time, g"),
        ("a.csv", b"1,2\n3,4\n", None, r"a.csv: 2 columns, and none is named; expected one of: 1 to 2"),
        ("a.csv", b"1,2\n3,4\n", "3", r"a.csv: there is no column '3'"),
        ("a.csv", b"g\n1\nbroken\n", None, r"a.csv: column 1: .*'broken'.*expected is a number on each line"),
        ("a.csv", b"", None, r"a.csv: a table without a single sample"),
        ("a.csv", b"g\n", None, r"a.csv: a table without a single sample"),
        ("a.csv", b"\xff\xfe1\x00", None, r"a.csv: no text in UTF-8"),
        ("a.csv", b"1\nnan\n", None, r"a.csv: sample nan at 0.000 s"),
        ("a.mat", b"no mat file at all, only some text" * 20, None, r"a.mat: no MAT file that can be read"),
        ("a.mat", b"MATLAB 7.3".ljust(124) + b"\x00\x02IM" + bytes(64), None, r"a.mat: a MAT .* 7.3"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    tmp_path: Path, name: str, content: bytes, column: str | None, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=said):
        read(path, column)


def test_a_table_is_a_recording_only_where_its_rate_is_given(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1\n2\n")
    assert find_recordings([tmp_path], Columns(12_000)) == [tmp_path / "a.csv"]
    with pytest.raises(SourceError, match="no recording in this folder"):
        find_recordings([tmp_path])
    with pytest.raises(SourceError, match="a table does not say its rate"):
        Recording(tmp_path / "a.csv")
    with pytest.raises(SourceError, match="a rate of 5 Hz; expected 1000 to 192000 Hz"):
        Recording(tmp_path / "a.csv", columns=Columns(5))
