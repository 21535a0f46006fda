"""Speed benchmarks: selftaught beside what a user would pick instead (benchmarks/README.md)."""
