"""The stages of an iteration: sample, select, train, measure."""
