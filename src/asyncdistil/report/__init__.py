"""The report room: pages about runs, for people."""

from asyncdistil.report.page import page_of

__all__ = ["page_of"]
