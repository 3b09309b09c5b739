"""`python -m eigen_digits` is the command `eigen-digits`, also where that is not on the path."""

from .cli import main

main(prog_name="python -m eigen_digits")
