"""Entry point of a worker process; see `asyncdistil.worker.main`."""

from __future__ import annotations

from asyncdistil.worker.main import main

if __name__ == "__main__":
    main()
