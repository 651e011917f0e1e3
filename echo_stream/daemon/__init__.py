"""The daemon runs the pipeline for years: supervision, status, metrics, log, systemd."""
