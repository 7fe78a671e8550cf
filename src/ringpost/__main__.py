"""`python -m ringpost`: the command line."""

from ringpost.cli.main import main

main()
