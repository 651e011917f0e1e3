"""Recordings in an object store are the same sound as files, and what is wrong is said in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo_stream.capture.recording import Recording, find_recordings
from echo_stream.capture.table import Columns
from echo_stream.core.errors import SourceError, StoreError
from echo_stream.core.text import path_text
from echo_stream.encode.spectral import SpectralEncoder
from echo_stream.fit.archive import parts_of
from echo_stream.fit.archive_jobs import encode, place_of
from tests.support.object_store import BUCKET, ObjectStore, object_store

RATE = 4_000


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as found:
        yield found


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of some formats, one with a header of 0 bytes, and what is none."""
    folder = tmp_path_factory.mktemp("sound")
    samples = 0.1 * np.random.default_rng(3).standard_normal(6 * RATE)
    (folder / "deeper").mkdir()
    soundfile.write(folder / "a.wav", samples, RATE)
    soundfile.write(folder / "deeper/b.flac", samples, RATE)
    soundfile.write(folder / "c.ogg", samples, RATE)
    soundfile.write(folder / "float.wav", samples, RATE, subtype="FLOAT")
    broken = bytearray((folder / "a.wav").read_bytes())
    broken[40:44] = bytes(4)
    (folder / "stopped.wav").write_bytes(broken)
    (folder / "notes.txt").write_text("no sound")
    (folder / "._a.wav").write_text("of another system")
    np.savetxt(folder / "t.csv", samples, header="x", comments="")
    return folder


@pytest.fixture(scope="module")
def there(store: ObjectStore, here: Path) -> Path:
    return store.put(here, "archive/m")


def samples_of(path: Path) -> bytes:
    recording = Recording(path, pace="fast", columns=Columns(RATE))
    blocks = []
    while (block := recording.read()) is not None:
        blocks.append(block.samples.tobytes())
    recording.close()
    return b"".join(blocks)


def test_the_same_recordings_are_found_and_hold_the_same_samples(here: Path, there: Path) -> None:
    own, found = (find_recordings([folder], Columns(RATE)) for folder in (here, there))
    assert [path.relative_to(here) for path in own] == [path.relative_to(there) for path in found]
    assert len(found) == 6
    assert path_text(found[0]) == f"s3://{BUCKET}/archive/m/a.wav"
    assert find_recordings([there / "a.wav"]) == [there / "a.wav"]
    assert [samples_of(path) for path in own] == [samples_of(path) for path in found]


def test_features_of_a_part_are_the_same_and_its_kept_name_is_that_of_the_object(
    here: Path, there: Path, tmp_path: Path
) -> None:
    encoder = SpectralEncoder(2.0)
    parts = [parts_of(folder / "a.wav", window_s=2.0, hop_s=1.0, details=True)[0] for folder in (here, there)]
    own, found = (encode(part, encoder, lambda _: None) for part in parts)
    assert {name: tensor.tobytes() for name, tensor in own.items()} == {
        name: tensor.tobytes() for name, tensor in found.items()
    }
    places = {place_of(part, encoder, tmp_path) for part in parts}
    assert len(places) == 2
    assert place_of(parts[1], encoder, tmp_path) in places


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (f"s3://{BUCKET}/archive/nothing", rf"s3://{BUCKET}/archive/nothing: no recording in this folder"),
        ("s3://other/archive", "s3://other/archive: no such bucket, folder or object"),
    ],
)
def test_a_missing_place_is_named(there: Path, path: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        find_recordings([Path(path)])


def test_a_missing_object_is_the_error_of_one_recording(there: Path) -> None:
    with pytest.raises(SourceError, match="no such bucket, folder or object"):
        Recording(there / "gone.wav")


def test_without_credentials_it_says_where_they_are_expected(
    there: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match="no credentials for the object store") as raised:
        find_recordings([there])
    assert "AWS_ACCESS_KEY_ID" in raised.value.hint
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_store_that_goes_away_ends_the_work_and_is_no_truncated_recording(
    store: ObjectStore, tmp_path: Path
) -> None:
    long = tmp_path / "long"
    long.mkdir()
    noise = 0.1 * np.random.default_rng(1).standard_normal(3 << 20)  # 6 MB: read in several requests
    soundfile.write(long / "x.wav", noise, RATE)
    recording = Recording(store.put(long, "long") / "x.wav", pace="fast", block_s=100.0)
    assert recording.read() is not None
    store.server.stop()
    with pytest.raises(StoreError, match=r"s3://sound/long/x\.wav: the object store does not answer"):
        list(iter(recording.read, None))
    recording.close()
