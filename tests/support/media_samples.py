"""Images, sound and video, good ones and such as trip decoders; all made here."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

RED = (200, 10, 30)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


def image(
    form: str = "PNG", size: tuple[int, int] = (6, 4), mode: str = "RGB", colour: Any = RED, **more: Any
) -> bytes:
    return saved(Image.new(mode, size, colour), form, **more)


def saved(picture: Image.Image, form: str, **more: Any) -> bytes:
    with io.BytesIO() as file:
        picture.save(file, form, **more)
        return file.getvalue()


def noise(form: str, **more: Any) -> bytes:
    pixels = np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)
    return saved(Image.fromarray(pixels), form, **more)


def huge_png(width: int = 100_000, height: int = 100_000) -> bytes:
    """A few hundred bytes that say they are so many pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def huge_gif() -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
        + b"\x02\x00;"
    )


def gif_of_a_larger_frame() -> bytes:
    """Its screen has a pixel, its first frame 65,000 x 65,000."""
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65000, 65000, 0)
        + b"\x02\x02\x4c\x01\x00;"
    )


def huge_webp() -> bytes:
    bits = (16383 - 1) | (16383 - 1) << 14
    body = b"WEBPVP8L" + struct.pack("<I", 25) + b"\x2f" + struct.pack("<I", bits) + bytes(21)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def huge_bmp() -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, 100_000, 100_000, 1, 24, 0, 0, 0, 0, 0, 0)
        + bytes(900)
    )


def huge_tiff() -> bytes:
    tags = [
        (256, 100_000),
        (257, 100_000),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 100_000),
        (279, 100),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return (
        b"II*\x00" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + bytes(200)
    )


def huge_jpeg() -> bytes:
    small = image("JPEG")
    at = small.index(b"\xff\xc0") + 5
    return small[:at] + struct.pack(">HH", 65_000, 65_000) + small[at + 4 :]


def png_bomb(side: int = 3_000) -> bytes:
    """A thousandth of its pixels' bytes."""
    return saved(Image.new("L", (side, side)), "PNG", optimize=True)


def jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan stands there `count` times."""
    whole = noise("JPEG", progressive=True)
    at = whole.rindex(b"\xff\xda")
    return whole[:at] + whole[at:-2] * count + whole[-2:]


def animation(form: str) -> bytes:
    frames = [Image.new("RGB", (6, 4), colour) for colour in (RED, (0, 0, 255), (0, 255, 0))]
    return saved(
        frames[0],
        form,
        save_all=True,
        append_images=frames[1:],
        duration=50,
        **({"lossless": True} if form == "WEBP" else {}),
    )


def turned(orientation: int, form: str = "JPEG") -> bytes:
    """8 x 4, red at its left half; EXIF says how it is turned."""
    picture = Image.new("RGB", (8, 4), (0, 0, 255))
    picture.paste(RED, (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture, form, exif=exif, **({"quality": 100, "subsampling": 0} if form == "JPEG" else {}))


def wav(seconds: float = 0.5, rate: int = 16_000, channels: int = 1, said: int = -1) -> bytes:
    """A tone of 440 Hz, 16 bits. said: how many bytes its head says there are."""
    tone = (np.sin(np.arange(int(seconds * min(rate, 200_000))) * 2 * np.pi * 440 / rate) * 20_000).astype("<i2")
    raw = np.repeat(tone, channels).tobytes()
    size = len(raw) if said < 0 else said
    head = struct.pack("<IHHIIHH", 16, 1, channels, rate, (2 * channels * rate) & 0xFFFFFFFF, 2 * channels, 16)
    return (
        b"RIFF"
        + struct.pack("<I", min(36 + size, 0xFFFFFFFF))
        + b"WAVEfmt "
        + head
        + b"data"
        + struct.pack("<I", size)
        + raw
    )


def sound(form: str = "flac", seconds: float = 0.5, codec: str = "flac", rate: int = 16_000) -> bytes:
    import av

    with io.BytesIO() as file:
        with av.open(file, "w", format=form) as container:
            stream = container.add_stream(codec, rate=rate)
            stream.layout = "mono"
            size = stream.codec_context.frame_size or 4_096
            fit = av.AudioResampler(format=stream.format.name, layout="mono", rate=rate, frame_size=size)
            tone = (np.sin(np.arange(rate) * 2 * np.pi * 440 / rate) * 20_000).astype("<i2")
            parts = [tone[: int(rate * min(1.0, seconds - at))] for at in range(int(np.ceil(seconds)))]
            for part in parts:
                frame = av.AudioFrame.from_ndarray(part[None], format="s16", layout="mono")
                frame.rate = rate
                for one in fit.resample(frame):
                    container.mux(stream.encode(one))
            for one in fit.resample(None):
                container.mux(stream.encode(one))
            container.mux(stream.encode(None))
        return file.getvalue()


def video(
    form: str = "mp4", codec: str = "libx264", count: int = 48, size: tuple[int, int] = (64, 48), **more: str
) -> bytes:
    """24 frames a second; frame n is of the grey 5 n."""
    import av

    with io.BytesIO() as file:
        with av.open(file, "w", format=form, options=more) as container:
            stream = container.add_stream(codec, rate=24)
            stream.width, stream.height = size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for number in range(count):
                grey = np.full((size[1], size[0], 3), number * 5 % 256, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            container.mux(stream.encode(None))
        return file.getvalue()


def whole() -> list[tuple[str, bytes]]:
    """Good media of each kind and format, small."""
    tiff = [noise("TIFF", compression=one) for one in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")]
    images = [
        *map(noise, FORMATS),
        *map(animation, ("GIF", "WEBP", "PNG")),
        *tiff,
        noise("JPEG", progressive=True),
        turned(6),
        image(mode="P"),
    ]
    sounds = [
        wav(0.1),
        sound(seconds=0.2),
        sound("mp3", 0.2, "libmp3lame"),
        sound("ogg", 0.2, "libopus", 48_000),
        sound("adts", 0.2, "aac"),
    ]
    films = [("mp4", "libx264"), ("webm", "libvpx-vp9"), ("matroska", "libx264"), ("avi", "mpeg4"), ("mov", "mjpeg")]
    videos = [video(*film, 8) for film in films]
    return [(kind, one) for kind, its in (("image", images), ("audio", sounds), ("video", videos)) for one in its]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, left out or doubled, most of them near the start, or the end cut off."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16, 64))):
        if not found:
            break
        at = chance.randrange(min(len(found), chance.choice((64, 256, 1 << 30))))
        some = chance.randrange(1, 64)
        how = chance.choice(("byte", "byte", "number", "less", "more", "end"))
        if how == "byte":
            found[at] = chance.randrange(256)
        elif how == "number":
            found[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\1"))
        elif how == "less":
            del found[at : at + some]
        elif how == "more":
            found[at:at] = found[at : at + some]
        else:
            del found[chance.randrange(len(found)) :]
    return bytes(found)
