"""Checks that look past the answer: at the reasoning, and at the machinery."""
