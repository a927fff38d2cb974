"""For all tests."""

import torch

# The models are tiny: a second thread only waits for the first, and on a busy machine makes them many times slower.
torch.set_num_threads(1)
