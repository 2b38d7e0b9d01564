"""Pixels and samples of a checked medium."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayllm_batch.media.image import rgb
from rayllm_batch.media.medium import Medium

if TYPE_CHECKING:
    from PIL.Image import Image


def image_of(medium: Medium) -> Image:
    """A PIL image of mode RGB: turned as EXIF says, on white where it is transparent; the first frame of an animation."""
    return rgb(medium.data)
