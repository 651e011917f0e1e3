"""Errors say what is wrong and where (message), and what to do about it (hint).

EchoStreamError                 exit code 1
├── ConfigError                 78: the configuration file, or what it names, is wrong
├── CheckpointError             weights are missing, damaged or of another shape
├── BankError                   a bank cannot be read or fitted
│   ├── NoBank                  78: nothing was learnt yet
│   └── BankMismatch            78: a sound bank, but for another encoder, rate or window
├── SourceError                 no sound: device, file or stream; the daemon retries it
├── EncoderError                a window that cannot be encoded (not finite, too short)
│   └── PrecisionUnavailable    78: this CPU does not compute in the precision that was asked for
├── ClusterError                workers on other PCs cannot be reached, or are lost
├── StoreError                  an object store cannot be reached, or refuses
├── ShardDone                   0: this PC's share of the work is done, that of others is not yet there
├── MissingExtra                a library that comes with an extra which is not installed
├── CommandRefused              an operator's command that the alarm's state does not allow
└── DeliveryError               broker or outbox; never reaches the pipeline
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

FIT_AGAIN = "Fit the bank again."
"""The hint where a part of a bank is damaged, or of another version."""


class EchoStreamError(Exception):
    """What went wrong and what to do about it, in words for the person who runs the program."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class ConfigError(EchoStreamError):
    """The configuration, or a file that it names, is wrong: retrying cannot help (EX_CONFIG)."""

    exit_code = 78


class CheckpointError(EchoStreamError):
    """A weights file is missing, damaged, or does not have the expected tensors."""


class BankError(EchoStreamError):
    """A bank of normal sound cannot be read, written or fitted."""


class NoBank(BankError):
    """The file of a bank does not exist: trying again cannot help until somebody runs fit-normal."""

    exit_code = 78


class BankMismatch(BankError):
    """A bank that was fitted with another encoder, sample rate or window."""

    exit_code = 78


class SourceError(EchoStreamError):
    """A device, file or stream delivers no usable sound."""


class EncoderError(EchoStreamError):
    """A window cannot be encoded: samples are not finite, or too few for one patch."""


class PrecisionUnavailable(EncoderError):
    """This CPU, or this build of a library, does not compute in the precision that was asked for by name.

    Args:
        runtime: Name of the runtime that was asked.
        precision: What was asked for.
        available: Precisions that it has here.
    """

    exit_code = 78

    def __init__(self, runtime: str, precision: str, available: Sequence[str]) -> None:
        has = " or ".join(available)
        super().__init__(
            f"encoder.precision {precision}: on this CPU {runtime} computes in {has} only",
            f"Use encoder.precision: {has}, or auto.",
        )


class ClusterError(EchoStreamError):
    """A scheduler or its workers cannot be reached or are lost; trying again can help."""


class StoreError(EchoStreamError):
    """An object store cannot be reached, or refuses: not the fault of one recording, so the work ends."""


class ShardDone(EchoStreamError):
    """Ends a command whose own share is done while the shares of other PCs are not: nothing is wrong."""

    exit_code = 0


class MissingExtra(EchoStreamError):
    """A library is not installed, because the extra that brings it was not asked for.

    Raised where the library would be imported, instead of ModuleNotFoundError.

    Args:
        what: What needs it, as the subject of a sentence: `ECHO by OpenVINO`.
        extra: Name of the extra in pyproject.toml.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(
            f"{what} needs libraries that are not installed",
            f"install them beside echo-stream: pip install 'echo-stream[{extra}]'",
        )
        self.extra = extra


@contextmanager
def of_extra(what: str, extra: str) -> Iterator[None]:
    """Imports of an extra's libraries stand below it; where one is missing, the extra is named.

    Raises:
        MissingExtra: A library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(what, extra) from error


class CommandRefused(EchoStreamError):
    """An alarm's state does not allow this command, or it is malformed; nothing has changed."""


class DeliveryError(EchoStreamError):
    """Broker or outbox; handled inside deliver, never seen by the pipeline."""


class Failures:
    """Collects the errors of many items, so that one bad item does not end the work of the others.

    Args:
        strict: the first error is raised at once instead.
    """

    def __init__(self, strict: bool = False) -> None:
        self._strict = strict
        self._errors: list[EchoStreamError] = []

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._errors)

    def add(self, error: EchoStreamError) -> None:
        """Note the error of one item.

        Raises:
            EchoStreamError: this one, where it is strict.
        """
        if self._strict:
            raise error
        self._errors.append(error)

    def raise_any(self, items: str = "recordings") -> None:
        """End in an error that names every item, where there was one.

        Raises:
            EchoStreamError: the only one, or one that names all.
        """
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            listed = "\n".join(error.message for error in self._errors)
            hints = list(dict.fromkeys(error.hint for error in self._errors if error.hint))
            raise EchoStreamError(
                f"{len(self._errors)} {items} were left out:\n{listed}", "\n  ".join(hints[:5])
            )
