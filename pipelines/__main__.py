"""`python -m pipelines`: the same as the `pixelis` command."""

from pipelines.cli import main

if __name__ == "__main__":
    main()
