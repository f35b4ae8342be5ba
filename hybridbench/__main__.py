"""__main__: the command of this package, for python -m."""

from hybridbench.cli.main import main

if __name__ == "__main__":
    main()
