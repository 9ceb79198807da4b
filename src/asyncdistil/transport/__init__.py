"""Messages between supervisor and workers: frames on a socket, credits, permits."""

from asyncdistil.transport.channel import AsyncChannel, Channel
from asyncdistil.transport.frames import FROM_WORKER, MAX_FRAME_BYTES, TO_WORKER
from asyncdistil.transport.window import Window

__all__ = ["FROM_WORKER", "MAX_FRAME_BYTES", "TO_WORKER", "AsyncChannel", "Channel", "Window"]
