"""What a window sounds like: encoders turn windows into features, band by band."""
