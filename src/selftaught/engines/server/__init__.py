"""Engines that ask a server."""
