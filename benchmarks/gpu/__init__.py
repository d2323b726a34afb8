"""The operators on a CUDA device, checked and timed."""
