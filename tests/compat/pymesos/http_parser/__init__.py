"""Stand-in for the C extension of the same name, which does not build on Python 3.11."""
