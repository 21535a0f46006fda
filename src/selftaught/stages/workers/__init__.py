"""Sampling by worker processes, each with an engine of its own: on this machine, or in a Ray cluster."""
