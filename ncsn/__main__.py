"""``python -m ncsn``: the same as the console script ``ncsn``."""

from ncsn.cli import main

if __name__ == "__main__":
    main()
