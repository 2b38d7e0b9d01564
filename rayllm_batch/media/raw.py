"""Images and sound that are already decoded: PIL images, arrays of pixels, arrays of samples."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional

from rayllm_batch.media.image import FORMATS, check_mode, check_size, plain
from rayllm_batch.media.media_error import MediaError
from rayllm_batch.media.rules import MediaRules
from rayllm_batch.media.sound import MOST_RATE

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


def image_as_png(source: Any, rules: MediaRules) -> Optional[tuple[bytes, str]]:
    """PNG and a digest of the pixels, of a PIL image or an array (height, width[, 1, 3 or 4]) of uint8; None: it is
    neither.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        check_size(source.size, rules)
        if getattr(source, "format", None) not in (None, "MPO", *FORMATS):
            raise MediaError(f"the PIL image is of a {source.format}, which is not taken: give it as an array.")
        image = source
    elif hasattr(source, "__array_interface__"):
        image = _image_of_array(source, rules)
    else:
        return None
    check_mode(image)
    try:
        image.load()  # a TIFF is turned while it is read
        pixels = plain(image)
        with io.BytesIO() as file:
            pixels.save(file, "PNG", compress_level=1)
            data = file.getvalue()
        return data, hashlib.sha256(b"RGB %d %d\n" % pixels.size + pixels.tobytes()).hexdigest()
    except Exception as error:  # a lazy image is read here
        raise MediaError(f"the PIL image cannot be read ({type(error).__name__}): give its file's bytes.") from None


def sound_as_wav(source: Any, rules: MediaRules) -> Optional[tuple[bytes, str]]:
    """WAV and a digest of the samples, of (samples, rate) or {"array": samples, "sampling_rate": rate}; None: it is
    neither.
    """
    if isinstance(source, Mapping) and source.get("array") is not None:
        samples, rate = source["array"], source.get("sampling_rate")
    elif isinstance(source, tuple) and len(source) == 2:
        samples, rate = source
    else:
        return None
    import numpy as np

    if (
        isinstance(rate, bool)
        or not isinstance(rate, (int, float, np.number))
        or not 1 <= rate <= MOST_RATE
        or int(rate) != rate
    ):
        raise MediaError(
            f"the audio's rate must be whole samples a second up to {MOST_RATE:,}, but is {str(rate)[:50]}."
        )
    try:
        found = np.asarray(samples)
    except Exception:
        raise MediaError("the audio's samples are no array of numbers.") from None
    if found.ndim != 1 or found.dtype.kind not in "fi" or not found.size:
        raise MediaError(
            f"the audio's samples must be one row of numbers, but are {_said(found)}: average its channels."
        )
    if found.size / rate > rules.max_seconds:
        raise MediaError(
            f"the audio has {found.size / rate:,.1f} seconds, of at most {rules.max_seconds:,} (max_media_seconds)."
        )
    if found.dtype.kind != "f":  # whole numbers span their type
        found = found / -float(np.iinfo(found.dtype).min)
    found = found.astype("<f4")
    if not np.isfinite(found).all():
        raise MediaError("the audio's samples are not all finite numbers.")
    raw, rate = found.tobytes(), int(rate)
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + len(raw),
        b"WAVE",
        b"fmt ",
        16,
        3,
        1,
        rate,
        4 * rate,
        4,
        32,
        b"data",
        len(raw),
    )
    return head + raw, hashlib.sha256(b"%d\n" % rate + raw).hexdigest()


def _image_of_array(source: Any, rules: MediaRules) -> Image:
    import numpy as np
    from PIL import Image

    found = np.asarray(source)
    if found.dtype != np.uint8 or found.ndim not in (2, 3) or (found.ndim == 3 and found.shape[2] not in (1, 3, 4)):
        raise MediaError(f"an array of an image must be (height, width, 3) of uint8, but is {_said(found)}.")
    check_size((found.shape[1], found.shape[0]), rules)
    return Image.fromarray(np.ascontiguousarray(found[:, :, 0] if found.ndim == 3 and found.shape[2] == 1 else found))


def _said(found: np.ndarray) -> str:
    return f"{found.shape} of {found.dtype}"
