"""A package, so that `tests` means this one: mirdata 0.3.7 installs another of that name."""
