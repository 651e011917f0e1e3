"""Is it normal: a bank of normal sound, a scorer, its calibration, and the alarm."""
