"""The history keeps one row a machine and minute on disk: what its scores, level and coverage were."""
