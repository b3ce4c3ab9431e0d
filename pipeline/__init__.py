"""From labelled data to a validated, exported model."""

import os

# OpenBLAS reads it when NumPy is imported. Files are decoded in a thread for each core; threads of OpenBLAS beside them
# would take the cores to wait for each other. Large products are PyTorch's.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
