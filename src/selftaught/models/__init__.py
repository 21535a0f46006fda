"""A model on disk: its folder, weights, tokenizer and log-probabilities."""
