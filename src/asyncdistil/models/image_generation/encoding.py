"""Images as text and back. Needs Pillow, which nothing else here does."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from asyncdistil.models.sdk import require

if TYPE_CHECKING:
    from PIL.Image import Image


def image_to_str(image: Image, image_format: str = "JPEG") -> str:
    """Encode a picture as base64 text.

    Args:
        image: The picture.
        image_format: As Pillow names it.
    """
    buffer = io.BytesIO()
    image.save(buffer, format=image_format)
    return base64.b64encode(buffer.getvalue()).decode()


def image_from_str(image_str: str) -> Image:
    """Decode base64 text into a picture.

    Raises:
        ParameterError: Pillow is not installed.
    """
    pillow: Any = require("PIL.Image", extra="image", needed_by="image_from_str")
    opened: Image = pillow.open(io.BytesIO(base64.b64decode(image_str)))
    return opened
