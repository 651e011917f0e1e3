"""Fitting learns a bank of normal sound and reports what it promises."""
