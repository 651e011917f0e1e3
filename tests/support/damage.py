"""How what comes from outside is damaged, and for how long it is tried.

pytest tests/fuzz                  the same few hundred examples at every run: some seconds each
FUZZ=30 pytest tests/fuzz          thirty times as many, others at every run: about a minute each
"""

from __future__ import annotations

import json
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

TIMES = float(os.environ.get("FUZZ", "1"))


def fuzz(examples: int) -> settings:
    """Settings of a test that tries so many examples in a usual run."""
    return settings(
        max_examples=round(examples * TIMES),
        derandomize=TIMES <= 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, within: int | None = None) -> bytes:
    """Bytes with some overwritten, cut out, doubled or put in; the first `within` of them are hit."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, min(len(data), within or len(data)) - 1)))
        what = draw(st.sampled_from(("byte", "number", "cut", "double", "insert", "truncate")))
        if what == "byte" and data:
            data[at] = draw(st.integers(0, 255))
        elif what == "number":
            size = draw(st.sampled_from((2, 4, 8)))
            value = draw(st.sampled_from((0, 1, -1, 2**15, 2**31 - 1, 2**31, 2**63 - 1)))
            data[at : at + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
        elif what == "cut":
            del data[at : at + draw(st.integers(1, 64))]
        elif what == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        elif what == "insert":
            data[at:at] = draw(st.binary(max_size=16))
        elif what == "truncate":
            del data[at:]
    return bytes(data)


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from((0, 1, -1, 2**31, 2**63, -(2**63), 10**30, 0.5, 1e308, float("nan"), float("inf"))),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(("", "~nobody/x", "\x00", "\ud800", "é" * 300, "../../x", "$HOME", "/", "2026-01-01")),
)
TREES = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@st.composite
def twisted(draw: st.DrawFn, tree: Any) -> Any:
    """A tree of mappings and lists in which some values are others, or gone."""
    changed = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 4))):
        here: Any = {"": changed}
        key: Any = ""
        while isinstance(here[key], dict | list) and here[key] and draw(st.integers(0, 5)) > 0:
            here = here[key]
            key = draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
        if draw(st.booleans()) and here is not changed and key != "":
            del here[key]
        elif key == "":
            changed = draw(TREES) if draw(st.integers(0, 9)) == 0 else changed
        else:
            here[key] = draw(TREES)
        if not isinstance(changed, dict | list):
            return changed
    return changed
