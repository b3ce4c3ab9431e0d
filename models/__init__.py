"""What is learned, free of files and of HTTP. `models.card` needs no torch."""

# Of the front ends (frontend.py, mfcc.py): raise it when features of the same media change; caches are keyed by it. It
# stands here so that it can be read without torch.
FEATURES_VERSION = 1
