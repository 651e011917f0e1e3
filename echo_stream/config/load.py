"""Reads config.yaml: all mistakes at once, each with file, line and key."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from echo_stream.config.schema import Config
from echo_stream.core.errors import ConfigError

DEFAULT_PATHS = (Path("config.yaml"), Path("/etc/echo-stream/config.yaml"))
Key = tuple[str | int, ...]
# What PyYAML raises for a date that is none (2026-13-45), or a tag that does not fit (`!!bool x`).
_OF_A_TAG = (ValueError, TypeError, LookupError, AttributeError)
M = TypeVar("M", bound=BaseModel)


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


def load(path: Path | None = None) -> Config:
    """The configuration in a YAML file; relative paths in it count from the file's folder.

    Raises:
        ConfigError: the file cannot be read or has mistakes; the message lists all of them.
    """
    path = path or find()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {_reason(error)}", "name a readable YAML file") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines, repeated = _index(root)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, *_OF_A_TAG) as error:
        raise ConfigError(f"{path}{_place(error)}", "check quotes, colons and indentation") from None
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: expected keys such as node and machines, found {_shown(data)}",
            "begin with the example: echo-stream install-service --print",
        )
    problems = [(lines[key], f"{_dotted(key)}: stands twice; keep one") for key in repeated]
    problems += _repeated_ids(data, lines)
    config = None
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        problems += [_explain(detail, lines) for detail in error.errors()]
    if problems or config is None:
        listed = "\n".join(f"{path}:{line}: {what}" for line, what in sorted(set(problems)))
        raise ConfigError(listed, "`echo-stream check-config` lists what is still wrong after each change")
    return _anchored(config, path.parent)


def _anchored(model: M, folder: Path) -> M:
    """The same model with every relative path counted from folder."""
    return model.model_copy(update=dict(_changes(model, folder)))


def _changes(model: BaseModel, folder: Path) -> Iterator[tuple[str, Any]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Path):
            expanded = os.path.expandvars(value.expanduser())  # ${CREDENTIALS_DIRECTORY} of systemd
            yield name, Path(os.path.normpath(folder / expanded))
        elif isinstance(value, BaseModel):
            yield name, _anchored(value, folder)
        elif isinstance(value, tuple):
            yield name, tuple(_anchored(v, folder) if isinstance(v, BaseModel) else v for v in value)


def _index(root: yaml.Node | None) -> tuple[dict[Key, int], list[Key]]:
    """The line of every key and item, and the keys that stand twice in one mapping."""
    lines: dict[Key, int] = {(): 1}
    repeated: list[Key] = []

    def walk(node: yaml.Node, key: Key) -> None:
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                child = (*key, str(name.value))
                if child in lines:
                    repeated.append(child)
                lines[child] = name.start_mark.line + 1
                walk(value, child)
        elif isinstance(node, yaml.SequenceNode):
            for position, value in enumerate(node.value):
                lines[(*key, position)] = value.start_mark.line + 1
                walk(value, (*key, position))

    if root is not None:
        walk(root, ())
    return lines, repeated


def _repeated_ids(data: dict[str, Any], lines: dict[Key, int]) -> Iterator[tuple[int, str]]:
    """Looked for here and not in the model, so that it is said beside all other mistakes."""
    machines = data.get("machines")
    seen: set[str] = set()
    for n, machine in enumerate(machines if isinstance(machines, list) else []):
        machine_id = str(machine.get("id")) if isinstance(machine, dict) else ""
        if machine_id in seen:
            yield (
                lines[("machines", n, "id")],
                f"machines[{n}].id: another machine has the id {machine_id!r} too",
            )
        seen |= {machine_id} - {"", "None"}


def _explain(detail: ErrorDetails, lines: dict[Key, int]) -> tuple[int, str]:
    """Line and sentence for one of pydantic's errors."""
    key = _without_tags(detail["loc"], lines)
    line = next(lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in lines)
    kind, found = detail["type"], detail.get("input")
    if kind == "missing":
        return line, f"{_dotted(key)}: is missing"
    if kind == "extra_forbidden":
        names = [name for model in _models_at(detail["loc"][:-1]) for name in model.model_fields]
        return line, f"{_dotted(key)}: unknown key" + _nearest(key[-1], names)
    if kind == "value_error":
        return line, f"{_dotted(key)}: {detail['msg'].removeprefix('Value error, ')}"
    if kind.startswith("union_tag"):
        kinds = [_tag(model) for model in _models_at(detail["loc"])]
        given = found.get("kind") if isinstance(found, dict) else found
        return (
            line,
            f"{_dotted((*key, 'kind'))}: expected one of {', '.join(kinds)}, found {_shown(given)}"
            + (_nearest(given, kinds)),
        )
    expected = detail["msg"].removeprefix("Input should be ")
    return line, f"{_dotted(key)}: expected {expected}, found {_shown(found)}"


def _without_tags(location: Key, lines: dict[Key, int]) -> Key:
    """Pydantic puts the kind that it chose in a union into the location; the file has no such key."""
    key: Key = ()
    for n, part in enumerate(location):
        is_tag = isinstance(part, str) and (*key, "kind") in lines and part in _TAGS
        follows = n + 1 < len(location)
        if not (is_tag and (follows or (*key, part) not in lines)):
            key = (*key, part)
    return key


_TAGS = {"spectral", "echo", "microphone", "recording", "stdin", "simulated"}


def _models_at(location: Key) -> list[type[BaseModel]]:
    """The models that may stand at a location of pydantic's."""
    models: list[type[BaseModel]] = [Config]
    for part in location:
        if isinstance(part, str):
            field = next((m.model_fields[part] for m in models if part in m.model_fields), None)
            models = _models(field.annotation) if field else [m for m in models if _tag(m) == part]
    return models


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in get_args(annotation) for m in _models(inner)]


def _tag(model: type[BaseModel]) -> str:
    field = model.model_fields.get("kind")
    return str(get_args(field.annotation)[0]) if field else ""


def _nearest(given: object, known: list[str]) -> str:
    near = difflib.get_close_matches(str(given), known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _dotted(key: Key) -> str:
    names = [part if isinstance(part, int) or part.isprintable() else repr(part) for part in key]
    dotted = "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in names)
    return dotted.lstrip(".") or "the file"


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{value!r:.60}"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _place(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f":{mark.line + 1}: not YAML: {problem}" if mark else f": not YAML: {problem}"
