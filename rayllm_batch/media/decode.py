"""Pixels and samples of a checked medium."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rayllm_batch.media.image import rgb
from rayllm_batch.media.medium import Medium
from rayllm_batch.media.sound import samples
from rayllm_batch.media.video import frames

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


def image_of(medium: Medium) -> Image:
    """A PIL image of mode RGB: turned as EXIF says, on white where transparent; the first frame of an animation."""
    return rgb(medium.data)


def audio_of(medium: Medium) -> tuple[np.ndarray, int]:
    """(samples,) of float32, the mean of the channels, and the samples a second that the file has."""
    return samples(medium.data)


def video_of(medium: Medium, num_frames: int = 32) -> tuple[np.ndarray, dict[str, Any]]:
    """(frames, height, width, 3) of uint8, at even distances, and what vLLM's own loader says of them. Raises
    MediaError.
    """
    found, places = frames(medium.data, medium.frames, num_frames)
    return found, {
        "total_num_frames": medium.frames,
        "fps": medium.frames / medium.seconds if medium.seconds else 0.0,
        "duration": medium.seconds,
        "video_backend": "pyav",
        "frames_indices": places,
        "do_sample_frames": len(places) == medium.frames,
    }
