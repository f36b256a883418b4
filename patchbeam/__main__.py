"""The command ``patchbeam``, also as ``python -m patchbeam``."""


def main() -> None:
    """Runs the command line."""
    from pipeline.cli.main import run

    run()


if __name__ == "__main__":
    main()
