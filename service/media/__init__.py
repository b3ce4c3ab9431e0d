"""Media files → arrays, in the form that the models take; the one implementation for training and for serving."""

VERSION = 1  # raise it when a file is decoded into other numbers: caches of features are keyed by it
