"""What is measured rather than tested; each module runs by itself: python -m benchmarks.NAME."""

import echo_stream  # noqa: F401 - before numpy: it says how many threads matrix products may have
