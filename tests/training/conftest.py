"""Settings for the tests of training."""

import torch

torch.set_num_threads(1)  # the networks here are tiny, and a second thread only waits where others keep the cores busy
