"""The task `commonsenseqa`."""
