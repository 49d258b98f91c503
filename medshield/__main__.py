"""`python -m medshield`."""

from medshield.cli import main

if __name__ == "__main__":
    main()
