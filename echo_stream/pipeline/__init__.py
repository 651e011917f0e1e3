"""The pipeline turns sound into events, station by station."""
