"""Several methods with several seeds on one task: which rows there are, what is equal among them, what may be said."""
