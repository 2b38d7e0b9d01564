"""One image, audio or video of a row, as it was given."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Medium:
    """Encoded, and checked that it decodes; `decode.py` makes pixels and samples of it.

    data: as it was given; a PIL image or an array as PNG or WAV. digest: SHA-256 of `data` in hex, or of the pixels or
    samples of an image or array, so that it does not depend on who compressed them: equal ones are the same medium.
    width, height: pixels of an image or a video's frame, turned as EXIF says; 0 of audio. frames: of a video. seconds:
    of audio or video.
    """

    kind: str  # "image", "audio" or "video"
    data: bytes = field(repr=False)
    digest: str
    width: int = 0
    height: int = 0
    frames: int = 0
    seconds: float = 0.0
