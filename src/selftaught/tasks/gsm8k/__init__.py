"""The task `gsm8k`."""
