"""The loader reads config.yaml and reports all mistakes at once, each with file, line and key.

It raises ConfigError and nothing else, whatever the file holds: a reload must never end the daemon.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from echo_stream.config.document import Document, Key, parse
from echo_stream.config.schema import Config, Encoder, Mqtt
from echo_stream.config.sources import A_NUMBER, A_TOPIC, Source
from echo_stream.core.errors import ConfigError
from echo_stream.core.files import read_regular

DEFAULT_PATHS = (Path("config.yaml"), Path("/etc/echo-stream/config.yaml"))
LARGEST_BYTES = 1_000_000
"""A thousand machines take 200 kB."""
MOST_LISTED = 50


def find() -> Path:
    """The configuration to use where none is named.

    Raises:
        ConfigError: there is none.
    """
    for path in DEFAULT_PATHS:
        if path.is_file():
            return path
    looked = " or ".join(str(path) for path in DEFAULT_PATHS)
    raise ConfigError(f"no configuration: there is no {looked}", "name one with --config PATH")


def load(path: Path | None = None, *, without_machines: bool = False) -> Config:
    """The configuration in a YAML file; relative paths in it count from the file's folder.

    Args:
        path: of the file; None takes one of the usual places.
        without_machines: none need stand there: it is of a PC that listens to none.

    Raises:
        ConfigError: the file cannot be read or has mistakes; the message lists all of them.
    """
    return load_with_lines(path, without_machines=without_machines)[0]


def load_with_lines(path: Path | None = None, *, without_machines: bool = False) -> tuple[Config, Document]:
    """The configuration, and the document that tells where in the file each key stands.

    Raises:
        ConfigError: as `load`.
    """
    path = path or find()
    document = parse(_text(path), path)
    problems = [(document.line(key), f"{dotted(key)}: stands twice; keep one") for key in document.repeated]
    problems += _repeated_ids(document)
    problems += _wrong_references(document)
    problems += _own_topics(document)
    config = None
    context = {"folder": path.parent, "without_machines": without_machines}
    try:
        config = Config.model_validate(document.data, context=context)
    except ValidationError as error:
        problems += _explained(error.errors(include_url=False), document)
    if problems or config is None:
        raise mistakes(path, problems)
    return config, document


def mistakes(path: Path, problems: list[tuple[int, str]]) -> ConfigError:
    """The error that lists problems, each a line of the file and a sentence."""
    found = sorted(set(problems))
    listed = "\n".join(f"{path}:{line}: {what}" for line, what in found[:MOST_LISTED])
    if len(found) > MOST_LISTED:
        listed += f"\n{path}: and {len(found) - MOST_LISTED} more"
    return ConfigError(listed, "`echo-stream check-config` lists what is still wrong after each change")


def dotted(key: Key) -> str:
    """A key as people write it: machines[0].source.kind."""
    names = [part if isinstance(part, int) or part.isprintable() else repr(part) for part in key]
    text = "".join(f"[{name}]" if isinstance(name, int) else f".{name:.60}" for name in names)
    return text.lstrip(".") or "the file"


def _text(path: Path) -> str:
    try:
        data = read_regular(path, LARGEST_BYTES)
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}", "name a readable YAML file") from None
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: the byte 0x{data[error.start]:02x} is not UTF-8 text",
            f"save the file as UTF-8: iconv -f latin1 -t utf-8 {path} -o NEW",
        ) from None


def _repeated_ids(document: Document) -> Iterator[tuple[int, str]]:
    """Looked for here and not in the model, so that it is said beside all other mistakes."""
    machines = document.data.get("machines")
    seen: set[str] = set()
    for n, machine in enumerate(machines if isinstance(machines, list) else []):
        machine_id = machine.get("id") if isinstance(machine, dict) else None
        if not isinstance(machine_id, str):
            continue
        if machine_id in seen:
            key = ("machines", n, "id")
            yield document.line(key), f"{dotted(key)}: another machine has the id {machine_id!r:.80} too"
        seen.add(machine_id)


def _wrong_references(document: Document) -> Iterator[tuple[int, str]]:
    """References to no machine, or of a machine to itself."""
    machines = _machines(document)
    ids = [each["id"] for each in machines if isinstance(each.get("id"), str)]
    for n, machine in enumerate(machines):
        reference, key = machine.get("reference"), ("machines", n, "reference")
        if not isinstance(reference, str):
            continue
        what = ""
        if reference == machine.get("id"):
            what = "is this machine itself; name another"
        elif reference == "auto":
            what = "" if len(machines) > 1 else "needs a second machine, and there is none"
        elif reference not in ids:
            what = "is no machine here; name the id of another, or auto" + _nearest(reference, ids)
        if what:
            yield document.line(key), f"{dotted(key)}: {reference!r:.80} {what}"


def _own_topics(document: Document) -> Iterator[tuple[int, str]]:
    """Speeds that are said to come from where we ourselves publish."""
    mqtt = document.data.get("mqtt")
    root = mqtt.get("topic_root") if isinstance(mqtt, dict) else None
    root = root if isinstance(root, str) else Mqtt.model_fields["topic_root"].default
    for n, machine in enumerate(_machines(document)):
        speed, key = machine.get("rpm"), ("machines", n, "rpm", "topic")
        topic = speed.get("topic") if isinstance(speed, dict) else None
        if isinstance(topic, str) and f"{topic}/".startswith(f"{root}/"):
            yield (
                document.line(key),
                f"{dotted(key)}: {topic!r:.80} lies below {root!r:.80}, where echo-stream itself publishes; "
                "name the topic of the program that knows the speed",
            )


def _machines(document: Document) -> list[dict[str, Any]]:
    """What the file says of each machine, as far as it says something."""
    found = document.data.get("machines")
    return [each if isinstance(each, dict) else {} for each in found] if isinstance(found, list) else []


def _explained(details: list[ErrorDetails], document: Document) -> list[tuple[int, str]]:
    """Line and sentence of each; no hint where so many stand before it that it is only counted."""
    keys = [_without_tags(detail["loc"], document) for detail in details]
    lines = [document.line(key) for key in keys]
    last = sorted(lines)[:MOST_LISTED][-1]
    return [
        (line, _explain(detail, key, document) if line <= last else f"{dotted(key)}: {detail['msg']}")
        for detail, key, line in zip(details, keys, lines, strict=True)
    ]


def _explain(detail: ErrorDetails, key: Key, document: Document) -> str:
    """Sentence for one of pydantic's errors, at a key of the document."""
    kind, found = detail["type"], detail.get("input")
    if kind == "missing":
        return f"{dotted(key)}: is missing"
    if kind == "extra_forbidden":
        names = [name for model in _models_at(detail["loc"][:-1]) for name in model.model_fields]
        return f"{dotted(key)}: unknown key" + _nearest(key[-1], names)
    if kind == "value_error":
        return f"{dotted(key)}: {detail['msg'].removeprefix('Value error, ')}"
    if kind.startswith("union_tag"):
        kinds = [_tag(model) for model in _models_at(detail["loc"])]
        given = found.get("kind") if isinstance(found, dict) else found
        said = f"{dotted((*key, 'kind'))}: expected one of {', '.join(kinds)}, found {_shown(given)}"
        return said + _nearest(given, kinds)
    expected = detail["msg"].removeprefix("Input should be ")
    written = document.written.get(key)
    if kind in {"string_type", "path_type"} and written is not None and found is not None:
        return f'{dotted(key)}: expected text, found {_shown(found)}; write it in quotes: "{written}"'
    return f"{dotted(key)}: expected {expected}, found {_shown(found)}"


def _without_tags(location: Key, document: Document) -> Key:
    """Pydantic puts the kind that it chose in a union into the location; the file has no such key."""
    key: Key = ()
    for n, part in enumerate(location):
        is_tag = part in (A_NUMBER, A_TOPIC) or (
            isinstance(part, str) and (*key, "kind") in document.lines and part in _TAGS
        )
        follows = n + 1 < len(location)
        if not (is_tag and (follows or (*key, part) not in document.lines)):
            key = (*key, part)
    return key


def _models_at(location: Key) -> list[type[BaseModel]]:
    """The models that may stand at a location of pydantic's."""
    models: list[type[BaseModel]] = [Config]
    for part in location:
        if isinstance(part, str):
            field = next((m.model_fields[part] for m in models if part in m.model_fields), None)
            models = _models(field.annotation) if field else [m for m in models if _tag(m) in ("", part)]
    return models


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in get_args(annotation) for m in _models(inner)]


def _tag(model: type[BaseModel]) -> str:
    field = model.model_fields.get("kind")
    return str(get_args(field.annotation)[0]) if field else ""


_TAGS = {_tag(model) for model in (*_models(Encoder), *_models(Source))}


def _nearest(given: object, known: list[str]) -> str:
    near = difflib.get_close_matches(str(given)[:80], known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{value!r:.60}"
