"""Video: which is taken, and as what frames."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rayllm_batch.media.container import VIDEO_CODECS, check_end, codec_of, opened, seconds_of
from rayllm_batch.media.media_error import MediaError
from rayllm_batch.media.rules import MediaRules

if TYPE_CHECKING:
    import numpy as np

MOST_FRAME_PIXELS = 8_192 * 4_352  # 8K; a decoder keeps up to 16 frames
MOST_RATE = 240  # frames a second
MOST_BYTES = 2 << 30  # of the frames that are taken of one video
DECODE_S = 120.0


def check_video(data: bytes, rules: MediaRules) -> tuple[int, int, int, float]:
    """Width, height, number of frames and seconds; all of its packets read, and its first frame decoded. Raises
    MediaError.
    """
    count, first, last = 0, 0.0, 0.0
    with opened(data, "video") as container:
        stream = _stream(container, min(rules.max_pixels, MOST_FRAME_PIXELS))
        said = seconds_of(container)
        _check_seconds(said, rules)
        for packet in container.demux(stream):
            if packet.size == 0:  # the end
                continue
            if packet.pts is not None and packet.time_base is not None:
                at = float(packet.pts * packet.time_base)
                first, last = (
                    (min(first, at) if count else at),
                    max(last, at + float((packet.duration or 0) * packet.time_base)),
                )
            count += 1
            if count > rules.max_seconds * MOST_RATE:
                raise MediaError(
                    f"the video has more than {count - 1:,} frames: expected at most {MOST_RATE} a second."
                )
        seconds = max(0.0, last - first)
    _check_seconds(seconds, rules)
    check_end(seconds, said, "video")
    frame = next(_frames(data, [0], rules.max_pixels), None)
    if frame is None:
        raise MediaError("the video has no frames: expected some.")
    height, width = frame.shape[:2]
    return width, height, count, seconds or said


def frames(
    data: bytes, count: int, num_frames: int, max_pixels: int = MOST_FRAME_PIXELS
) -> tuple[np.ndarray, list[int]]:
    """Of a checked video's `count` frames `num_frames` at even distances, the first and the last among them.

    Returns (num_frames, height, width, 3) of uint8, and their places in the video. Raises MediaError where they would
    take more than 2 GiB, or decoding them more than two minutes.
    """
    import numpy as np

    wanted = np.linspace(0, count - 1, max(1, min(num_frames, count)), dtype=int).tolist()
    found: list[np.ndarray] = []
    for frame in _frames(data, wanted, max_pixels):
        if frame.nbytes * len(wanted) > MOST_BYTES:
            raise MediaError(f"{len(wanted)} frames of the video take more than {MOST_BYTES >> 30} GiB: take fewer.")
        if found and frame.shape != found[0].shape:
            raise MediaError("the video's frames change their size: expected one size.")
        found.append(frame)
    if not found:
        raise MediaError("the video has no frames: expected some.")
    return np.stack(found), wanted[: len(found)]


def _frames(data: bytes, wanted: list[int], max_pixels: int) -> Any:
    """Those frames as RGB arrays, turned as the file says; those that are not there are left out."""
    import numpy as np

    ends = time.monotonic() + DECODE_S
    most, left = min(max_pixels, MOST_FRAME_PIXELS), set(wanted)
    with opened(data, "video") as container:
        stream = _stream(container, most)
        for number, frame in enumerate(container.decode(stream)):
            if time.monotonic() > ends:
                raise MediaError(f"the video was not decoded after {DECODE_S:g} s: make it smaller or shorter.")
            if number not in left:
                continue
            _check_size(frame.width, frame.height, most)  # it may change from frame to frame
            pixels = frame.to_ndarray(format="rgb24")
            yield np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))
            left.discard(number)
            if not left:
                return


def _stream(container: Any, most: int) -> Any:
    if not container.streams.video:
        raise MediaError("the file has no video: expected some.")
    stream = container.streams.video[0]
    codec_of(stream, VIDEO_CODECS, "video")
    _check_size(stream.codec_context.width, stream.codec_context.height, most)
    stream.codec_context.options = {"max_pixels": str(most)}  # so that no frame that says otherwise is made
    return stream


def _check_size(width: int, height: int, most: int) -> None:
    if width * height > most:
        raise MediaError(
            f"the video's frames have {width:,} x {height:,} pixels, of at most {most:,} (max_media_pixels)."
        )


def _check_seconds(seconds: float, rules: MediaRules) -> None:
    if seconds > rules.max_seconds:
        raise MediaError(
            f"the video has {seconds:,.1f} seconds, of at most {rules.max_seconds:,g} (max_media_seconds)."
        )
