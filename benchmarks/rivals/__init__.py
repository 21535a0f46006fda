"""One file per rival; each runs as a process of its own (benchmarks/child.py)."""
