"""Encoders turn windows into features, band by band."""
