"""Images: which are taken, and as what pixels."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rayllm_batch.media.media_error import MediaError
from rayllm_batch.media.rules import MOST_PIXELS, MediaRules

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
)  # of Pillow's others some run programs, and few are looked after
NAMES = "JPEG, PNG, WebP, GIF, BMP or TIFF"
# What people have instead, by its first bytes: an error says so, and they know what to convert.
OF_BRAND = {b"avif": "AVIF", b"avis": "AVIF", **dict.fromkeys((b"heic", b"heix", b"mif1", b"msf1", b"hevc"), "HEIC")}
OTHERS = {
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"8BPS": "Photoshop",
    b"\0\0\1\0": "ICO",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
}
MODES = frozenset("1 L LA P PA RGB RGBA RGBa RGBX CMYK YCbCr I;16 I;16B I;16L".split())
MOST_SCANS = 100  # of a JPEG; cameras and encoders make about 10, and each costs a pass over all of the image
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}  # by EXIF's orientation; from 5 on width and height change places


def check_image(data: bytes, rules: MediaRules) -> tuple[int, int]:
    """Its width and height, turned as EXIF says; decoded once, whole, the first frame of an animation. Raises
    MediaError.
    """
    if data[:2] == b"\xff\xd8" and (scans := data.count(b"\xff\xda")) > MOST_SCANS:
        raise MediaError(f"the JPEG has {scans:,} scans, of at most {MOST_SCANS}: save it anew.")
    with opened(data) as image:
        check_size(image.size, rules)
        _load(image)
        check_size(image.size, rules)
        check_mode(image)
        width, height = image.size
        return (height, width) if 5 <= _orientation(image) <= 8 else (width, height)


def check_mode(image: Image) -> None:
    if image.mode not in MODES:
        raise MediaError(f"the image's pixels are of Pillow's mode {image.mode}: expected 8 or 16 bits a channel.")


def check_size(size: tuple[int, int], rules: MediaRules) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise MediaError(f"the image has {width} x {height} pixels: expected some.")
    if width * height > rules.max_pixels:
        raise MediaError(
            f"the image has {width:,} x {height:,} pixels, of at most {rules.max_pixels:,} (max_media_pixels)."
        )


def opened(data: bytes) -> Image:
    """Its header read. Raises MediaError."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise MediaError(f"the bytes are no image: expected {NAMES}, but {_guess(data)} were given.") from None
    except Image.DecompressionBombError:
        raise MediaError(f"the image has more than {MOST_PIXELS:,} pixels: make it smaller.") from None
    except Exception as error:  # Pillow's readers raise what a file makes them trip over
        raise MediaError(f"the image cannot be read ({type(error).__name__}): expected {NAMES}.") from None


def rgb(data: bytes) -> Image:
    """A checked image's pixels as RGB, turned as EXIF says, on white where it is transparent, as vLLM has them."""
    with opened(data) as image:
        _load(image)
        return plain(image)


def plain(image: Image) -> Image:
    from PIL import Image

    turn = _orientation(image)
    if turn in TURNS:
        turned = image.transpose(Image.Transpose[TURNS[turn]])
        turned.info = {name: value for name, value in image.info.items() if name == "transparency"}
        image = turned
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode.startswith("I;16"):  # convert() would make white of everything above 255
        import numpy as np

        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if "A" in image.mode.upper() or "transparency" in image.info:
        seen = image.convert("RGBA")
        white = Image.new("RGB", seen.size, (255, 255, 255))
        white.paste(seen, mask=seen.getchannel("A"))
        return white
    return image.convert("RGB")


def _load(image: Image) -> None:
    try:
        image.load()
    except Exception as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise MediaError(f"the image does not decode ({why}): expected a whole {NAMES}.") from None


def _orientation(image: Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a broken EXIF block turns nothing
        return 1


def _guess(data: bytes) -> str:
    if not data:
        return "no bytes"
    start = data[:512].lstrip().lower()
    if start.startswith(b"<"):
        return "HTML, SVG or XML"
    other = next((name for head, name in OTHERS.items() if data.startswith(head)), None)
    if data[4:8] == b"ftyp":  # a phone's photographs, and films
        other = OF_BRAND.get(data[8:12], "a film")
    return f"those of {other}" if other else f"{len(data):,} others"
