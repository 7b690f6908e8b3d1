"""`python -m cli` is `clnet`."""

from cli.main import main

main()
