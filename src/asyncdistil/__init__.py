"""asyncdistil: pipelines of synthetic data whose finished work is never lost."""

__version__ = "0.1.0"
