"""The command line: the commands that a person types, and what they print."""

from pipeline.cli.main import run

__all__ = ["run"]
