"""`python -m selftaught`."""

from selftaught.cli.app import main

main()
