"""This machine: processes, memory, paths."""
