"""What says something to the operator takes its logger from here: structlog, imported without rich.

structlog imports rich, where it is installed, for tracebacks that nothing here prints (daemon/logs.py). That
would cost each process a tenth of a second at its start and 4 MB for as long as it runs.
"""

from __future__ import annotations

import sys

_LATER = "rich" not in sys.modules and "structlog" not in sys.modules
if _LATER:
    sys.modules["rich"] = None  # type: ignore[assignment]  # to an import: it is not there
try:
    import structlog
finally:
    if _LATER:
        del sys.modules["rich"]  # who prints tables imports it

__all__ = ["get_logger", "structlog"]

get_logger = structlog.get_logger
