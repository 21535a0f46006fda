"""One file per rival, each run as a process of its own (benchmarks/child.py)."""
