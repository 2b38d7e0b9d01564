"""data: URLs, which have a medium's bytes in them."""

from __future__ import annotations

import base64
import binascii

from rayllm_batch.media.media_error import MediaError


def read_data_url(source: str, max_bytes: int) -> bytes:
    """The type that it says is not looked at: the bytes say what they are. Raises MediaError."""
    head, comma, text = source.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise MediaError("the data: URL has no base64: expected data:image/png;base64,....")
    if len(text) * 3 // 4 - 2 > max_bytes:
        raise MediaError(f"the data: URL has more than {max_bytes:,} bytes (max_media_bytes).")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError(
            f"the data: URL's base64 cannot be read ({error}): expected data:image/png;base64,...."
        ) from None
