"""The page shows machines and alarms in a browser and takes what people answer."""

from __future__ import annotations

from importlib.util import find_spec


def installed() -> bool:
    """Whether the libraries of the extra `web` are there; imports none of them."""
    return all(find_spec(name) is not None for name in ("starlette", "uvicorn"))
