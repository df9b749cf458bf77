"""The version, where setuptools can read it without importing keras."""

__version__ = "0.7.0"
