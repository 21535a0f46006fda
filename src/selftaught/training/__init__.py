"""What fine-tunes a model."""
