"""From a completion to a verdict, and the checks of its reasoning."""
