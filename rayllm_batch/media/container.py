"""Files of audio and video, opened by PyAV (FFmpeg) with most of it shut off.

FFmpeg has hundreds of readers, and some open other files and URLs that a file names (playlists, concatenations). So the
reader is chosen here, by the first bytes, from a few; it may open nothing else, and only well-known codecs are started.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rayllm_batch.media.media_error import MediaError

NAMES = "WAV, MP3, FLAC, Ogg, AAC, MP4, MOV, WebM, Matroska or AVI"
AUDIO_CODECS = frozenset(
    "aac alac flac libopus mp3 mp3float opus pcm_alaw pcm_f32be pcm_f32le pcm_f64be pcm_f64le pcm_mulaw pcm_s16be "
    "pcm_s16le pcm_s24be pcm_s24le pcm_s32be pcm_s32le pcm_s8 pcm_u8 vorbis".split()
)
VIDEO_CODECS = frozenset(
    "av1 h264 hevc libaom-av1 libdav1d libvpx libvpx-vp9 mjpeg mpeg1video mpeg2video mpeg4 vp8 vp9".split()
)


@contextmanager
def opened(data: bytes, kind: str) -> Iterator[Any]:
    """A PyAV container. What PyAV raises inside the block, too, becomes a MediaError."""
    try:
        import av
    except ImportError:
        raise MediaError(f"{kind} needs PyAV on each node, which is not installed: pip install av.") from None
    demuxer = demuxer_of(data)
    if demuxer is None:
        raise MediaError(f"the bytes are no {kind}: expected {NAMES}, but {len(data):,} others were given.")
    options = {
        "protocol_whitelist": "data",
        "format_whitelist": demuxer,
        "codec_whitelist": ",".join(sorted(AUDIO_CODECS | VIDEO_CODECS)),
    }
    try:
        with av.open(io.BytesIO(data), format=demuxer, options=options, metadata_errors="replace") as container:
            yield container
    except MediaError:
        raise
    except Exception as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise MediaError(f"the {kind} does not decode ({why}): expected a whole {NAMES}.") from None


def demuxer_of(data: bytes) -> Any:
    """FFmpeg's name of the reader for these bytes, or None."""
    head, brand = data[:4], data[8:12]
    if head in (b"RIFF", b"RF64"):
        return {b"WAVE": "wav", b"AVI ": "avi"}.get(brand)
    if data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return "mov"
    if head[:3] == b"ID3":
        return "mp3"
    if head[:1] == b"\xff" and len(head) == 4 and head[1] & 0xE0 == 0xE0:  # a frame's sync word; AAC has no layer
        return "mp3" if head[1] & 0x06 else "aac"
    return {b"fLaC": "flac", b"OggS": "ogg", b"\x1a\x45\xdf\xa3": "matroska"}.get(head)


def codec_of(stream: Any, known: frozenset[str], kind: str) -> None:
    """Raises MediaError unless the stream's codec is known; from here on it uses one thread."""
    if stream.codec_context is None or stream.codec_context.name not in known:
        name = "unknown" if stream.codec_context is None else stream.codec_context.name
        raise MediaError(
            f"the {kind}'s codec {name!r} is not read: expected a common one, such as AAC, FLAC, H.264 or VP9."
        )
    stream.codec_context.thread_count = 1


def seconds_of(container: Any) -> float:
    """As its header says; 0.0 where that is not known, or guessed from the number of bytes."""
    is_said = container.format.name.startswith(("mov", "matroska", "avi"))
    return max(0.0, (container.duration or 0) / 1_000_000) if is_said else 0.0


def check_end(seconds: float, said: float, kind: str) -> None:
    """Raises MediaError where much of what its header promises is not there. Trimmed files may lack some."""
    if seconds < 0.9 * said - 0.5:
        raise MediaError(f"the {kind} ends after {seconds:.1f} of {said:.1f} seconds: expected a whole file.")
