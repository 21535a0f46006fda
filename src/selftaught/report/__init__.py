"""Reports of run folders."""
