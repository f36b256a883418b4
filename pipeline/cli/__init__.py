"""What a person types, and what is printed."""

from pipeline.cli.main import run

__all__ = ["run"]
