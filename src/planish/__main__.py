"""`python -m planish`."""

from planish.cli import main

main()
