"""echo-stream: says, within seconds and with evidence, when a machine no longer sounds normal."""

import os

__version__ = "0.1.0"

# Before numpy is imported: the threads of its matrix products spin for milliseconds after each one, which
# costs more than they gain at the sizes used here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
