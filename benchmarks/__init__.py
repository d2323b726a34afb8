"""Throughput of the operators against plain PyTorch: ``python -m benchmarks --help``."""
