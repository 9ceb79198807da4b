"""What supervisor and zygote tell each other: one MessagePack message per packet."""

from __future__ import annotations

import msgspec

MOST_DESCRIPTORS = 32
PACKET_BYTES = 1024 * 1024


class Fork(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Fork a worker; descriptors: socket, output, segment if ``segment``, then the extra ones.

    The environment is bytes, as the system has it: a variable need not be UTF-8.
    """

    number: int
    module: str
    segment: bool
    env: dict[bytes, bytes]


class Reap(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The supervisor knows that this process has exited."""

    pid: int


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=32):
    """All is imported; ``threads`` above 1 means that forking is not safe."""

    threads: int


class Forked(msgspec.Struct, frozen=True, array_like=True, tag=33):
    """Answer to `Fork`: a pid, or 0 and the reason."""

    number: int
    pid: int
    reason: str = ""


class Exited(msgspec.Struct, frozen=True, array_like=True, tag=34):
    """A worker has exited; status as in `subprocess`."""

    pid: int
    returncode: int


TO_ZYGOTE: msgspec.msgpack.Decoder[Fork | Reap] = msgspec.msgpack.Decoder(Fork | Reap)
FROM_ZYGOTE: msgspec.msgpack.Decoder[Ready | Forked | Exited] = msgspec.msgpack.Decoder(
    Ready | Forked | Exited
)
encode = msgspec.msgpack.Encoder().encode
