"""A row's media in small, for a person to see what the model was shown."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from typing import Any, Optional

from rayllm_batch.media import decode
from rayllm_batch.media.image import check_image
from rayllm_batch.media.media_error import MediaError
from rayllm_batch.media.medium import Medium
from rayllm_batch.media.rules import MediaRules

SIDE = 160  # pixels, at most


@dataclass(frozen=True)
class Thumbnail:
    """label: "image 640x480", "audio 3.2 s". jpeg: empty where there is nothing to see."""

    label: str
    jpeg: bytes = b""

    @classmethod
    def of(cls, medium: Medium) -> Thumbnail:
        size = f" {medium.width}x{medium.height}" if medium.width else ""
        seconds = f" {medium.seconds:.1f} s" if medium.seconds else ""
        label = f"{medium.kind}{size}{seconds}"
        if medium.kind != "image":
            return cls(label)
        image, small = decode.image_of(medium), io.BytesIO()
        image.thumbnail((SIDE, SIDE))
        image.save(small, "JPEG", quality=80)
        return cls(label, small.getvalue())

    @classmethod
    def of_value(cls, value: Any) -> Optional[Thumbnail]:
        """Of what a column holds: an encoded image, or datasets' {"bytes": ..., "path": ...}; None of all else."""
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            return None
        try:
            return cls.of(Medium("image", data, "", *check_image(data, MediaRules())))
        except MediaError:
            return None

    def as_html(self) -> str:
        if not self.jpeg:
            return html.escape(f"<{self.label}>")
        encoded = base64.b64encode(self.jpeg).decode()
        return f"<img src='data:image/jpeg;base64,{encoded}' alt='{html.escape(self.label)}' title='{self.label}'>"

    def __str__(self) -> str:
        return f"<{self.label}>"
