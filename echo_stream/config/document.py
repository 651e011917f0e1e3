"""A document is a YAML file as plain values, with the line on which every key stands.

Written for a file that anybody may have made: keys are text whatever they look like (`on` is no truth value),
aliases and merge keys are followed within bounds, and what the configuration never needs (dates, binary, tags
of one's own) is not built at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from echo_stream.core.errors import ConfigError

Key = tuple[str | int, ...]
MOST_VALUES = 100_000
"""After aliases: a few lines of them can stand for more values than fit into memory."""
DEEPEST = 20
MERGE = "tag:yaml.org,2002:merge"
TAG = "tag:yaml.org,2002:"
NOT_TEXT = re.compile("[^\t\n\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast
_SCALARS = yaml.SafeLoader("")


@dataclass(slots=True)
class Document:
    """A YAML mapping, and where in the file its parts stand."""

    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Key, int] = field(default_factory=lambda: {(): 1})
    """Line of every key and item, counted from 1."""
    written: dict[Key, str] = field(default_factory=dict)
    """Scalars that stand without quotes and are no text, as they stand in the file: 0123, no, 2.0."""
    repeated: list[Key] = field(default_factory=list)
    """Keys that stand twice in one mapping."""

    def line(self, key: Key) -> int:
        """Line of a key, or of the nearest key round it that stands in the file."""
        return next(self.lines[key[:n]] for n in range(len(key), -1, -1) if key[:n] in self.lines)


class _Problem(Exception):
    """A node that cannot be taken."""

    def __init__(self, node: yaml.Node, text: str) -> None:
        super().__init__(text)
        self.line = node.start_mark.line + 1


def parse(text: str, path: Path) -> Document:
    """The document in a text.

    Raises:
        ConfigError: it is no YAML, or no mapping of keys; names the file and the line.
    """
    hint = "check quotes, colons and indentation"
    if bad := NOT_TEXT.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        raise ConfigError(
            f"{path}:{line}: contains the character {bad[0]!r}, which YAML does not allow", hint
        )
    try:
        if deep_at := _too_deep(text):  # libyaml composes by recursion and would end the process
            raise ConfigError(f"{path}:{deep_at}: is nested deeper than {DEEPEST} levels", hint)
        root = yaml.compose(text, Loader=_PARSER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}" if mark else ""
        problem = " ".join(f"{error.problem or error.context}".split())
        raise ConfigError(f"{path}{where}: not YAML: {problem}", hint) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {_first_line(error)}", hint) from None
    if not isinstance(root, yaml.MappingNode):
        found = "nothing" if root is None or not root.value else f"{root.value!r:.60}"
        found = "a list" if isinstance(root, yaml.SequenceNode) else found
        raise ConfigError(
            f"{path}: expected keys such as node and machines, found {found}",
            "begin with the example: echo-stream install-service --print",
        )
    builder = _Builder()
    try:
        builder.document.data = builder.build(root, ())
    except _Problem as problem:
        raise ConfigError(f"{path}:{problem.line}: {problem}", hint) from None
    return builder.document


def _too_deep(text: str) -> int | None:
    """The line where lists and mappings are nested deeper than DEEPEST; None where they nowhere are."""
    depth = 0
    for event in yaml.parse(text, Loader=_PARSER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST and event.start_mark is not None:
            return int(event.start_mark.line) + 1
    return None


class _Builder:
    """Builds plain values from nodes, and notes where each stands."""

    def __init__(self) -> None:
        self.document = Document()
        self._count = 0

    def build(self, node: yaml.Node, key: Key) -> Any:
        self._count += 1
        if self._count > MOST_VALUES:
            raise _Problem(node, f"stands for more than {MOST_VALUES:,} values; remove aliases (*name)")
        if len(key) > DEEPEST:
            raise _Problem(node, f"is nested deeper than {DEEPEST} levels, or an alias contains itself")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, (*key, n)) for n, item in enumerate(node.value)]
        return self._scalar(node, key)

    def _item(self, node: yaml.Node, key: Key) -> Any:
        self.document.lines[key] = node.start_mark.line + 1
        return self.build(node, key)

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        built: dict[str, Any] = {}
        merges: list[tuple[yaml.Node, yaml.Node]] = []
        for name, value in node.value:
            if name.tag == MERGE:
                merges.append((name, value))
                continue
            if not isinstance(name, yaml.ScalarNode):
                raise _Problem(name, "a list or mapping stands where a key is expected")
            child = (*key, name.value)
            if name.value in built:
                self.document.repeated.append(child)
            self.document.lines[child] = name.start_mark.line + 1
            built[name.value] = self.build(value, child)
        for name, value in merges:
            self._merge(built, name, value, key)
        return built

    def _merge(self, built: dict[str, Any], name: yaml.Node, value: yaml.Node, key: Key) -> None:
        """Take in the keys of `<<` that do not stand in the mapping itself: they stand where `<<` stands."""
        for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if not isinstance(merged, yaml.MappingNode):
                raise _Problem(name, "the key << expects a mapping or a list of mappings")
            inner = _Builder()
            inner._count = self._count
            found = inner._mapping(merged, key)
            self._count = inner._count + 1
            if self._count > MOST_VALUES:
                raise _Problem(name, f"stands for more than {MOST_VALUES:,} values; remove aliases (*name)")
            for child in found.keys() - built.keys():
                built[child] = found[child]
                depth = len(key) + 1
                own = (*key, child)
                self.document.written |= {k: v for k, v in inner.document.written.items() if k[:depth] == own}
                self.document.lines |= {k: v for k, v in inner.document.lines.items() if k[:depth] == own}
                self.document.lines[own] = name.start_mark.line + 1

    def _scalar(self, node: yaml.Node, key: Key) -> Any:
        tag = node.tag.removeprefix(TAG)
        if tag in {"str", "timestamp", "value"}:
            return node.value
        if tag not in {"null", "bool", "int", "float"}:
            raise _Problem(node, f"the tag {node.tag.replace(TAG, '!!')} cannot be used here")
        self.document.written[key] = node.value
        try:
            return _SCALARS.construct_object(yaml.ScalarNode(node.tag, node.value, node.start_mark))
        except (yaml.YAMLError, ValueError, TypeError, LookupError, OverflowError):
            raise _Problem(node, f"{node.value!r:.60} cannot be read as {tag}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
