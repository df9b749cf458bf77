"""The tests; `python -m tests` runs them (a package, because others install one of this name)."""
