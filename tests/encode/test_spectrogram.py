"""Frames, bands and patches, by their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from echo_stream.encode import spectrogram as front


def test_sizes_are_truncated() -> None:
    assert (front.fft_samples(44100), front.hop_samples(44100)) == (1102, 441)
    assert front.frame_count(32000, 16000) == 198
    assert front.frame_count(400, 16000) == 1
    assert front.frame_count(399, 16000) == 0
    assert front.frame_count(0, 16000) == 0


@pytest.mark.parametrize(("bins", "frames"), [(201, 198), (32, 16), (33, 17), (13, 5), (64, 40)])
def test_patches_hold_their_bins_and_frames(bins: int, frames: int) -> None:
    spectrogram = 1.0 + np.arange(bins * frames, dtype=np.float32).reshape(1, bins, frames)
    cut = front.patches(spectrogram)
    assert cut.shape == (1, math.ceil(bins / 32), math.ceil(frames / 16), 512)
    for band in range(cut.shape[1]):
        end = min(32 * band + 32, bins)
        for patch in range(cut.shape[2]):
            expected = np.zeros((32, 16), np.float32)
            piece = spectrogram[0, 32 * band : end, 16 * patch : 16 * patch + 16]
            expected[32 - piece.shape[0] :, : piece.shape[1]] = piece  # zeros below and behind
            np.testing.assert_array_equal(cut[0, band, patch], expected.T.ravel())


def test_band_edges_join_and_end_at_nyquist() -> None:
    for rate in (1000, 2560, 16000, 44100, 48000):
        edges = front.band_edges_hz(rate)
        assert len(edges) == math.ceil((int(0.025 * rate) // 2 + 1) / 32)
        assert edges[0, 0] == 0
        np.testing.assert_array_equal(edges[1:, 0], edges[:-1, 1])
        assert (edges[:, 1] > edges[:, 0]).all()
        assert edges[-1, 1] == pytest.approx(rate / 2)
    assert front.band_edges_hz(16000)[0, 1] == pytest.approx(31.5 * 40)


def test_frequency_embedding_of_one_number() -> None:
    """Band 1 of 16 kHz: bins 32 to 63, so its centre is 47.5 * 40 Hz of 8 kHz."""
    embedding = front.frequency_embedding(16000, 6)[1]
    place = 47.5 * 40 / 8000
    for pair in range(3):
        angle = 25 * place * math.exp(-2 * pair * math.log(10000) / 6)
        assert embedding[2 * pair] == pytest.approx(math.sin(angle), abs=1e-6)
        assert embedding[2 * pair + 1] == pytest.approx(math.cos(angle), abs=1e-6)


def test_last_band_is_placed_by_its_true_end() -> None:
    """The seventh band of 16 kHz holds bins 192 to 200 alone."""
    angle = 25 * (192 + 200) / 2 * 40 / 8000
    assert front.frequency_embedding(16000, 2)[6, 0] == pytest.approx(math.sin(angle), abs=1e-5)


def test_a_tone_lands_in_its_bin() -> None:
    audio = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)[None]
    assert front.log_spectrogram(audio, 16000)[0, :, 50].argmax() == 25


def test_a_window_has_the_same_spectrogram_in_any_batch() -> None:
    audio = np.random.default_rng(1).standard_normal((5, 24000), np.float32) + np.float32(0.2)
    audio[1] = 0.2  # a stuck sensor: nothing but its mean
    together = front.log_spectrogram(audio, 12000)
    for i in range(5):
        alone = front.log_spectrogram(audio[i : i + 1], 12000)[0]
        np.testing.assert_allclose(together[i], alone, rtol=0, atol=1e-6)
