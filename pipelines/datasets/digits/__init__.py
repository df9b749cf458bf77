"""Handwritten digits of scikit-learn, see `digits.Digits`."""
