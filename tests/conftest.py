"""For all tests."""

import os

# before datasets is imported, here and in processes that tests start: it tells a server of every set it opens
os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"

import torch

# The models are tiny: a second thread only waits for the first, and on a busy machine makes them many times slower.
torch.set_num_threads(1)
