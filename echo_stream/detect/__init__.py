"""Detection scores features against a bank of normal sound."""
