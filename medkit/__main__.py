"""``python -m medkit`` is the ``medkit`` command."""

from medkit.cli import main

if __name__ == "__main__":
    main()
