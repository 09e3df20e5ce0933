"""``python -m compatbench``."""

from compatbench.cli import main

if __name__ == "__main__":
    main()
