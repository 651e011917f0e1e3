"""Encoding speed: the published path beside ours, alternating, as ratios measured in one run.

    python -m benchmarks.encode --size tiny --rates 48000 --windows 1 4 16
    python -m benchmarks.encode --published DIR     (runs the Python code in DIR)

The published path is the arithmetic of the authors' code: one window at a time, float32, torch.stft, band by
band, Conv2d, nn.TransformerEncoder. With --published their own files take their turns too, and are what the
others are compared with: DIR is a copy of github.com/yucongzh/ECHO or of a model from Hugging Face; they need
einops. Ours is `EchoEncoder.encode`, from samples to features, in each runtime and precision. Weights are
random: speed does not depend on them. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from echo_stream.core.errors import EncoderError
from echo_stream.core.types import Window
from echo_stream.encode import spectrogram as front
from echo_stream.encode.echo import LAYER_EPS, SIZES, EchoDimensions, EchoWeights
from echo_stream.encode.echo_encoder import EchoEncoder
from echo_stream.encode.runtime import KNOWN
from echo_stream.encode.runtime_torch import available


def spectrogram(audio: Tensor, rate: int) -> Tensor:
    """(1, samples) to (bins, frames), on the scale of the net."""
    n_fft, hop = int(0.025 * rate), int(0.01 * rate)
    window = torch.hann_window(n_fft)
    audio = audio - audio.mean()
    spec = torch.stft(audio, n_fft, hop, n_fft, window, center=False, return_complex=True).abs()[0]
    return (torch.log(spec + 1e-9) + 5.874158) / (2 * 5.223174)


class Published(nn.Module):
    """The path that the model card shows, written with the modules that the published code uses."""

    def __init__(self, model: EchoWeights) -> None:
        super().__init__()
        d = model.dimensions
        self.proj = nn.Conv2d(1, d.embed_dim, kernel_size=(32, 16), stride=(32, 16))
        layer = nn.TransformerEncoderLayer(
            d.embed_dim,
            d.num_heads,
            d.mlp_dim,
            activation="gelu",
            batch_first=True,
            layer_norm_eps=LAYER_EPS,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # three heads: it says that its nested tensors are off
            self.encoder = nn.TransformerEncoder(layer, d.encoder_depth)
        self.norm = nn.LayerNorm(d.embed_dim, eps=d.norm_eps)
        weights = {name: torch.from_numpy(array) for name, array in model.tensors.items()}
        self.cls_token, self.pos_embed = weights.pop("cls_token"), weights.pop("pos_embed")
        self.load_state_dict({name.removeprefix("patch_embed."): w for name, w in weights.items()})
        self.eval().requires_grad_(False)

    @torch.inference_mode()
    def forward(self, audio: Tensor, rate: int) -> Tensor:
        """(1, samples) to (bands, 1 + patches, dim)."""
        spec = spectrogram(audio, rate)
        n_fft = int(0.025 * rate)
        bands, places = [], []
        for start in range(0, len(spec), 32):
            end = min(start + 32, len(spec))
            bands.append(functional.pad(spec[start:end], (0, 0, 32 - (end - start), 0)))
            places.append((start + end - 1) / 2 * rate / n_fft / (rate / 2))
        stacked = functional.pad(torch.stack(bands)[:, None], (0, -spec.shape[1] % 16))
        dim = self.cls_token.shape[-1]
        rates = torch.exp(torch.arange(0, dim, 2).float() * (-np.log(10000.0) / dim))
        frequency = torch.zeros(len(bands), dim)
        frequency[:, 0::2] = torch.sin(torch.tensor(places)[:, None] * 25 * rates)
        frequency[:, 1::2] = torch.cos(torch.tensor(places)[:, None] * 25 * rates)
        tokens = self.proj(stacked).squeeze(2).transpose(1, 2)
        tokens = tokens + self.pos_embed[:, 1 : 1 + tokens.shape[1]] + frequency[:, None]
        tokens = torch.cat([self.cls_token + frequency[:, None], tokens], dim=1)
        return self.norm(self.encoder(tokens))  # type: ignore[no-any-return]


AUTHORS_FILES = ("audioMAE_band_upgrade.py", "modules.py", "utils.py")


def authors_path(folder: Path, model: EchoWeights) -> Callable[[Tensor, int], Tensor]:
    """The authors' own class with our weights, from their files: what its caller does with a window.

    Their spectrogram is torchaudio's; where that cannot be loaded, torch.stft computes the same.

    Raises:
        SystemExit: A file is missing, one cannot be imported, or it takes other weights.
    """
    places = [folder, folder / "models" / "ECHO"]
    here = [place for place in places if all((place / name).is_file() for name in AUTHORS_FILES)]
    if not here:
        raise SystemExit(
            f"--published {folder}: expected {', '.join(AUTHORS_FILES)} in it or in models/ECHO below it; "
            "take a copy of github.com/yucongzh/ECHO"
        )
    sys.path.insert(0, str(here[0]))
    try:
        authors = importlib.import_module("audioMAE_band_upgrade").AudioMAEWithBand
        d = model.dimensions
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as above
            found = authors(
                spec_len=d.spec_len,
                shift_size=front.PATCH_FRAMES,
                embed_dim=d.embed_dim,
                encoder_depth=d.encoder_depth,
                num_heads=d.num_heads,
                mlp_ratio=d.mlp_ratio,
                freq_pos_emb_dim=d.embed_dim,
            )
        found.load_state_dict({name: torch.from_numpy(array) for name, array in model.tensors.items()})
        found.eval()
    except (ImportError, OSError, AttributeError, TypeError, RuntimeError) as error:
        raise SystemExit(
            f"--published {here[0]}: the files cannot be used: {error}; they need einops (pip install einops)"
        ) from error
    finally:
        sys.path.remove(str(here[0]))
    front_end = found.preprocess_audio_to_spectrogram
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError) as error:
        print(f"# torchaudio cannot be loaded, torch.stft computes the authors' spectrogram: {error}")
        front_end = spectrogram

    @torch.no_grad()
    def path(audio: Tensor, rate: int) -> Tensor:
        cls_tokens: Tensor = found.extract_features(front_end(audio, rate), rate)[0]
        return cls_tokens.reshape(-1, model.dimensions.embed_dim)

    return path


def windows_of(rate: int, seconds: float, count: int) -> list[Window]:
    generator = np.random.default_rng(2)
    n, now = round(rate * seconds), datetime(2026, 1, 1, tzinfo=UTC)
    sound = (0.1 * generator.standard_normal((count, n))).astype(np.float32)
    return [Window(f"machine{i}", samples, 0, n, rate, now) for i, samples in enumerate(sound)]


def gflop(d: EchoDimensions, rate: int, seconds: float) -> float:
    """Multiplications and additions of the net for a window, in 1e9."""
    bands = len(front.band_bins(rate))
    patches = -(-front.frame_count(round(rate * seconds), rate) // front.PATCH_FRAMES)
    tokens = patches + 1
    dense = 2 * tokens * (4 * d.embed_dim**2 + 2 * d.embed_dim * d.mlp_dim)
    attention = 4 * tokens**2 * d.embed_dim
    patch = 2 * patches * front.BAND_BINS * front.PATCH_FRAMES * d.embed_dim
    return bands * (d.encoder_depth * (dense + attention) + patch) / 1e9


def matrix_products(dtype: torch.dtype) -> dict[str, tuple[Callable[[], object], float]]:
    """Large matrix products in the ways that torch has, with their work in GFLOP."""
    products: dict[str, tuple[Callable[[], object], float]] = {}
    for n in (1024, 2048, 4096):
        a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(b, n)
        products[f"{n} mm"] = (lambda a=a, b=b: torch.mm(a, b), 2 * n**3 / 1e9)  # type: ignore[misc]
        products[f"{n} oneDNN"] = (
            lambda a=a, w=packed: torch.ops.mkldnn._linear_pointwise(a, w, None, "none", [], ""),  # type: ignore[misc]
            2 * n**3 / 1e9,
        )
    return products


def alternate(functions: dict[str, Callable[[], object]], rounds: int, calls: int = 1) -> dict[str, float]:
    """Median milliseconds of a call of each, all taking turns of so many calls; the first round warms up.

    Each turn begins with a call that is not counted: while the threads of the one before still spin, and
    their data lie in the caches, it says more about them.
    """
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(rounds + 1):
        for name, function in functions.items():
            time.sleep(0.02)
            for call in range(1 + calls):
                started = time.perf_counter()
                function()
                if round_ and call:
                    taken[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(times) for name, times in taken.items()}


@contextmanager
def all_cores() -> Iterator[None]:
    """Torch as it comes, its operations on all cores; our runtimes share the work out themselves."""
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peaks(rounds: int) -> dict[str, float]:
    """GFLOP/s of the fastest large matrix product, by precision."""
    best = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        if not available(name):
            continue  # oneDNN has no such product on this CPU
        products = matrix_products(dtype)
        with all_cores():
            ms = alternate({key: function for key, (function, _) in products.items()}, rounds)
        best[name] = max(work / ms[key] * 1e3 for key, (_, work) in products.items())
    return best


def encoders_of(model: EchoWeights, wanted: Sequence[str]) -> dict[str, EchoEncoder]:
    encoders = {}
    for runtime, precision in KNOWN:
        if wanted and f"{runtime}-{precision}" not in wanted:
            continue
        try:
            encoders[f"{runtime}-{precision}"] = EchoEncoder(model, runtime, precision)
        except EncoderError as error:
            print(f"# {runtime} {precision}: {error.message}")
    return encoders


def check(
    published: Published,
    authors: Callable[[Tensor, int], Tensor] | None,
    encoders: dict[str, EchoEncoder],
    windows: list[Window],
) -> None:
    """That all of them compute the same thing, before anybody compares their speed."""
    audio, rate = torch.from_numpy(windows[0].samples)[None], windows[0].sample_rate_hz
    expected = published(audio, rate)[:, 0]
    found = {name: torch.from_numpy(each.encode(windows[:1])[0].window) for name, each in encoders.items()}
    if authors is not None:
        found["authors"] = authors(audio, rate)
    for name, features in found.items():
        cosine = float(torch.cosine_similarity(features, expected, dim=-1).min())
        print(f"# {name}: cosine similarity to the published path {cosine:.6f}")


def compare(
    model: EchoWeights, encoders: dict[str, EchoEncoder], rate: int, count: int, options: argparse.Namespace
) -> list[dict[str, object]]:
    published = Published(model)
    windows = windows_of(rate, options.seconds, count)
    authors = options.authors
    check(published, authors, encoders, windows)
    audio = [torch.from_numpy(window.samples)[None] for window in windows]

    def one_by_one(path: Callable[[Tensor, int], Tensor]) -> None:
        with all_cores():
            for a in audio:
                path(a, rate)

    functions: dict[str, Callable[[], object]] = {"published": partial(one_by_one, published)}
    if authors is not None:
        functions = {"authors": partial(one_by_one, authors), **functions}
    for name, encoder in encoders.items():
        functions[name] = lambda encoder=encoder: encoder.encode(windows)  # type: ignore[misc]
    ms = alternate(functions, options.rounds, calls=max(1, 8 // count))
    base = ms[next(iter(functions))]
    work = gflop(model.dimensions, rate, options.seconds)
    rows: list[dict[str, object]] = []
    for name, taken in ms.items():
        peak = options.peaks.get(name.partition("-")[2], 0.0)
        share = work / (taken / count) * 1e3 / peak if peak else None
        rows.append(
            {
                "rate_hz": rate,
                "windows": count,
                "path": name,
                "ms_per_window": round(taken / count, 3),
                "times_as_fast": round(base / taken, 2),
                "share_of_matrix_product": None if share is None else round(share, 3),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--rates", type=int, nargs="+", default=[48000], metavar="HZ")
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 4, 16], help="windows a batch")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a window")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of which the median is taken")
    parser.add_argument("--only", nargs="*", default=[], metavar="RUNTIME-PRECISION")
    parser.add_argument(
        "--published", type=Path, metavar="DIR", help="also run the authors' files from here, alternating"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a row")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"# ECHO {options.size}, {cores} cores, torch {version('torch')}")
    options.peaks = peaks(min(options.rounds, 5))
    print("# largest matrix product, GFLOP/s:", {name: round(peak) for name, peak in options.peaks.items()})
    model = EchoWeights.random(options.size)
    options.authors = options.published and authors_path(options.published, model)
    encoders = encoders_of(model, options.only)
    for rate in options.rates:
        for count in options.windows:
            for row in compare(model, encoders, rate, count, options):
                print(json.dumps(row) if options.json else "  ".join(f"{key} {row[key]}" for key in row))


if __name__ == "__main__":
    main()
