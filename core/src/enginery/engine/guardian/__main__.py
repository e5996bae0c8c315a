"""Become the outer guardian, and fork the inner one. Run by path, so that its modules come compiled."""

import sys

if __name__ == "__main__":
    # the neighbours of this package; last, for some have names of the standard library's (`queue`)
    sys.path.append(__file__.rpartition("/guardian/")[0])
    __package__ = "guardian"  # the whole package's own name would import the whole package

    from .roles import main

    main(int(sys.argv[1]), int(sys.argv[2]))
