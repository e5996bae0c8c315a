"""``python -m enginery.cli``: the same as the console script."""

from enginery.cli import main

main()
