"""Power cuts of a real ext4 file system: an image on a loop device, copied at the moment of one.

The copy is what the disk would hold if the power failed then and everything that the file system
had sent to the device had reached it; mounting it replays the journal, as after a real cut. What
lies only in the page cache is lost, which is the point. Needs root and a free loop device.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

IMAGE_BYTES = 8 << 20
_BUSY_TRIES = 50


def why_not() -> str:
    """Why this machine can't do it; empty if it can."""
    if os.geteuid() != 0:
        return "mounting an ext4 image needs root"
    for tool in ("mkfs.ext4", "mount", "umount"):
        if shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
            return f"{tool} is not installed"
    try:
        with tempfile.TemporaryDirectory() as folder:
            image = make_image(Path(folder) / "probe.img")
            with mounted(image, Path(folder) / "probe"):
                return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"an ext4 image can't be mounted here: {_said(error)}"


def make_image(path: Path) -> Path:
    """A new, empty file system in a file."""
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    _run("mkfs.ext4", "-q", "-b", "1024", "-m", "0", "-E", "lazy_itable_init=0", str(path))
    return path


def copy_image(image: Path, target: Path) -> Path:
    """What the disk holds at this moment."""
    shutil.copyfile(image, target)
    return target


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """Mount an image; its journal is replayed if it needs to be."""
    folder.mkdir(exist_ok=True)
    # Data go to the device before the names that point at them, which is the default of ext4; a
    # long commit interval leaves every sync to the program.
    _run("mount", "-o", "loop,data=ordered,commit=300", str(image), str(folder))
    try:
        yield folder
    finally:
        for _ in range(_BUSY_TRIES):
            with suppress(subprocess.CalledProcessError):
                _run("umount", str(folder))
                break
        else:
            _run("umount", "-l", str(folder))


def _run(*command: str) -> None:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PATH": path})


def _said(error: OSError | subprocess.CalledProcessError) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return str(error.stderr.decode("utf-8", "replace").strip())
    return str(error)
