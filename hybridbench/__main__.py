"""__main__: the command, for ``python -m hybridbench``."""

from hybridbench.cli.main import main

if __name__ == "__main__":
    main()
