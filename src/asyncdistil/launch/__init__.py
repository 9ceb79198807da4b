"""How a worker comes to life, and how nothing of it is left behind."""

from asyncdistil.launch.forking import Zygote
from asyncdistil.launch.local import log_lines, spawn
from asyncdistil.launch.prepared import PreparedLauncher
from asyncdistil.launch.process import WorkerProcess, stop

__all__ = ["PreparedLauncher", "WorkerProcess", "Zygote", "log_lines", "spawn", "stop"]
