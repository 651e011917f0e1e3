"""What is measured rather than tested; each module runs by itself: python -m benchmarks.NAME."""
