"""`python -m rhlens.cli`: the same as the console script."""

from rhlens.cli import main

main()
