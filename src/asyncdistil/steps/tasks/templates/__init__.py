"""Prompts of the built-in tasks, one Jinja2 file each, read when first used."""
