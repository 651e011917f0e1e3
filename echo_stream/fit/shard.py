"""Shard computes a share of an archive's parts into a folder that several PCs share, without any engine.

Each PC runs the same command with another number; the one that ends last finds the parts of all, and goes on
with them. Runs in the caller's thread, as `archive_jobs`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from echo_stream.core.errors import ConfigError, Failures, ShardDone
from echo_stream.core.text import Progress, path_text
from echo_stream.encode.encoder import Encoder
from echo_stream.fit.archive import Part
from echo_stream.fit.archive_jobs import encode_parts, place_of

_FAILED = ".failed"
"""Ending of an empty file: a part whose recording cannot be read. Nobody waits for it."""
_NAMED = 8


@dataclass(frozen=True, slots=True)
class Shard:
    """A share of the work: every `of`-th part, beginning with `number`, which counts from 1."""

    number: int
    of: int
    folder: Path

    @classmethod
    def parse(cls, text: str, resume: Path | None) -> Self:
        """`3/20`, with the folder of --resume.

        Raises:
            ConfigError: it says something else, or there is no folder.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(f"--shard {text}: is no share", "expected NUMBER/OF, from 1/20 to 20/20")
        if resume is None:
            raise ConfigError(
                f"--shard {text}: needs a folder for what each PC has computed",
                "give --resume FOLDER, the same shared folder on all of them",
            )
        return cls(int(found[1]), int(found[2]), resume)

    def compute(self, parts: Sequence[Part], encoder: Encoder, progress: Progress) -> None:
        """Compute these of the parts that are not kept yet; returns where those of all shards are.

        Raises:
            ShardDone: parts of other shards are missing.
            SourceError: the folder cannot be written.
            EncoderError: a window cannot be encoded.
        """
        own, broken = parts[self.number - 1 :: self.of], Failures()
        encoded = encode_parts(own, encoder, progress=progress, resume=self.folder, failures=broken)
        for part, found in zip(own, encoded, strict=True):
            if found.failed:
                place_of(part, encoder, self.folder).with_suffix(_FAILED).touch()
        places = [place_of(part, encoder, self.folder) for part in parts]
        missing = Counter(
            n % self.of + 1
            for n, path in enumerate(places)
            if not (path.is_file() or path.with_suffix(_FAILED).is_file())
        )
        if not missing:
            return
        of_shards = ", ".join(f"{number} ({count})" for number, count in sorted(missing.items())[:_NAMED])
        more = ", ..." if len(missing) > _NAMED else ""
        damaged = f" ({broken.count} recordings cannot be read)" if broken.count else ""
        there = f"its {len(own)} parts are in {path_text(self.folder)}{damaged}"
        raise ShardDone(
            f"--shard {self.number}/{self.of}: {there}; {missing.total()} of {len(parts)} parts are missing, "
            f"of shards {of_shards}{more}",
            "The shard that ends last puts all together, and so does any that is run again. Parts of another "
            "version, encoder.precision or path of the recordings have other names.",
        )
