"""``python -m asyncdistil.compat SCRIPT [ARGS]``: run a script that imports distilabel."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from asyncdistil.compat.hooks import stand_in

if len(sys.argv) < 2:
    sys.exit("usage: python -m asyncdistil.compat SCRIPT [ARGS]")
stand_in()
del sys.argv[0]
sys.path[0] = str(Path(sys.argv[0]).absolute().parent)
runpy.run_path(sys.argv[0], run_name="__main__")
