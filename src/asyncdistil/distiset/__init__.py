"""Datasets: the worker that writes them and the `Distiset` that holds them.

Arrow is made once, at the leaves of a pipeline. Importing this room is cheap: pyarrow and
``datasets`` are imported when rows are written or touched.
"""

from asyncdistil.distiset.distiset import Distiset
from asyncdistil.distiset.tables import exports_in_place

__all__ = ["Distiset", "exports_in_place"]
