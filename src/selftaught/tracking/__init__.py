"""Listeners: who is told what a run does."""
