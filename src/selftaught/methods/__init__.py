"""What to sample next and what to train on: the methods of the STaR family. Pure."""
