"""The task `arithmetic`."""
