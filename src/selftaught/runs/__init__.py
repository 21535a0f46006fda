"""The folder of a run: written by one process, read by anybody, without the loop, an engine or torch."""
