"""What this CPU says of itself. Any thread."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def cpu() -> dict[str, str]:
    """Fields of the first processor, such as `model name`; empty where the system does not tell."""
    about: dict[str, str] = {}
    if CPUINFO.exists():
        pairs = (line.partition(":") for line in CPUINFO.read_text("utf-8").splitlines() if ":" in line)
        for name, _, value in pairs:
            about.setdefault(name.strip(), value.strip())
    return about
