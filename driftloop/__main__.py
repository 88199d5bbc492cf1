"""``python -m driftloop``: the same as the ``driftloop`` command."""

from driftloop.infra.cli import main

if __name__ == "__main__":
    main()
