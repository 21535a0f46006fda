"""The rows of files that users give, and their columns."""
