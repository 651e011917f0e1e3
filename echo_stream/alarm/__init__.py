"""Alarms turn scores into events: trip conditions, calibration, sensor faults, drift, floods."""
