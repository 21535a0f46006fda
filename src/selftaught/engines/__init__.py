"""What generates completions."""
