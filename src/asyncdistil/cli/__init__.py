"""The command line, ``asyncdistil``: thin, and lazy: a command imports what it needs."""

from asyncdistil.cli.app import main

__all__ = ["main"]
