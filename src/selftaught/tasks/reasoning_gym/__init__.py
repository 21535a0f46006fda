"""The task `reasoning-gym`."""
