"""Models: everything that is learned, independent of files and HTTP. `models.card` needs no torch."""

# Version of the front ends (frontend.py, mfcc.py). Caches of features are keyed by it: raise it when the features of
# the same media change. It is defined here so that reading it does not import torch.
FEATURES_VERSION = 7
