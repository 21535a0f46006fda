"""The engine `local`: a transformers model in this process."""
