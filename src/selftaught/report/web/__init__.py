"""The page to look at runs with: its data, its files, one file that holds both, and a server."""
