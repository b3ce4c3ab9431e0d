"""A package, so that this is the one that `tests` means: mirdata 0.3.7 installs a package of that name too."""
