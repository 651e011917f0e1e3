"""Capture: sources of sound that are polled, and what cuts their blocks into windows."""
