"""``python -m steelyard``: the command line, where no script is installed."""

from steelyard.cli import main

if __name__ == "__main__":
    main()
