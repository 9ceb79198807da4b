"""Which GPUs a model in this process may use."""

import fcntl
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, PrivateAttr

from asyncdistil.errors import ParameterError
from asyncdistil.models.parameters import Setting

_VISIBLE = "CUDA_VISIBLE_DEVICES"


class CudaDevices(BaseModel):
    """Fields of a model that places itself on GPUs.

    A claimed GPU is a lock on a file, held as long as the process lives: a crash gives it back.

    Attributes:
        cuda_devices: Numbers of the GPUs to use, or ``auto``: one that no other model here claimed.
        disable_cuda_device_placement: Leave ``CUDA_VISIBLE_DEVICES`` as it is.
    """

    cuda_devices: Setting[list[int] | Literal["auto"]] = Field(
        default="auto", description="Numbers of the GPUs to use, or `auto`."
    )
    disable_cuda_device_placement: Setting[bool] = Field(
        default=False, description="Leave CUDA_VISIBLE_DEVICES as it is."
    )

    _claims: list[Any] = PrivateAttr(default_factory=list)

    def place_on_devices(self, wanted: int = 1) -> None:
        """Make only the claimed GPUs visible; does nothing on a machine without one.

        Must come before CUDA is first used in this process.

        Args:
            wanted: GPUs to claim, with ``auto``.

        Raises:
            ParameterError: A GPU is claimed by another model, or too few are free.
        """
        if self.disable_cuda_device_placement or self._claims:
            return
        if self.cuda_devices == "auto":
            free = visible_devices()
            if not free:
                return
        else:
            free, wanted = list(self.cuda_devices), len(self.cuda_devices)
        claimed: list[int] = []
        for device in free:
            if len(claimed) < wanted and (lock := _claim(device)) is not None:
                self._claims.append(lock)
                claimed.append(device)
        if len(claimed) < wanted:
            self.give_up_devices()
            raise ParameterError(
                f"{wanted} GPU(s) wanted, {len(claimed)} of {free} free: another model on this"
                " machine holds them. Wait for it, name others in `cuda_devices`, or set"
                " `disable_cuda_device_placement`"
            )
        os.environ[_VISIBLE] = ",".join(map(str, claimed))

    def give_up_devices(self) -> None:
        """Let others claim the GPUs."""
        for lock in self._claims:
            os.close(lock)
        self._claims = []


def visible_devices() -> list[int]:
    """Numbers of the GPUs that this process may see; empty without a driver."""
    visible = os.environ.get(_VISIBLE)
    if visible is not None:
        return [int(part) for part in visible.split(",") if part.strip().isdigit()]
    return sorted(
        int(path.name.removeprefix("nvidia"))
        for path in Path("/dev").glob("nvidia[0-9]*")
        if path.name.removeprefix("nvidia").isdigit()
    )


def _claim(device: int) -> int | None:
    """Lock a GPU; ``None`` if another process has it."""
    name = f"asyncdistil-gpu-{os.getuid()}-{device}.lock"
    path = os.path.join(tempfile.gettempdir(), name)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
