"""The tests; a package, so that a `tests` that some library installs cannot take its place."""
