"""A row's media in small, for a person to see what the model was shown."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass

from rayllm_batch.media import decode
from rayllm_batch.media.medium import Medium

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

    def as_html(self) -> str:
        if not self.jpeg:
            return html.escape(f"<{self.label}>")
        encoded = base64.b64encode(self.jpeg).decode()
        return f"<img src='data:image/jpeg;base64,{encoded}' alt='{html.escape(self.label)}' title='{self.label}'>"

    def __str__(self) -> str:
        return f"<{self.label}>"
