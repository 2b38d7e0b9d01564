"""Audio: which is taken, and as what samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rayllm_batch.media.container import AUDIO_CODECS, check_end, codec_of, opened, seconds_of
from rayllm_batch.media.media_error import MediaError
from rayllm_batch.media.rules import MediaRules

if TYPE_CHECKING:
    import numpy as np

MOST_RATE = 192_000
MOST_CHANNELS = 16


def check_sound(data: bytes, rules: MediaRules) -> float:
    """Its seconds; decoded once, whole. Raises MediaError."""
    declared = int.from_bytes(data[4:8], "little") if data[:4] == b"RIFF" else 0
    if len(data) * 1.01 + 64 < declared < 0xF0000000:  # what is written as it comes has 0xFFFFFFFF there
        raise MediaError(f"the audio ends after {len(data):,} of {declared:,} bytes: expected a whole file.")
    seconds = 0.0
    with opened(data, "audio") as container:
        said = seconds_of(container)
        _check_seconds(said, rules)
        for frame in _frames(container):
            seconds += frame.samples / frame.sample_rate
            _check_seconds(seconds, rules)
    if not seconds:
        raise MediaError("the audio has no samples: expected some.")
    check_end(seconds, said, "audio")
    return seconds


def samples(data: bytes) -> tuple[np.ndarray, int]:
    """A checked audio's samples, (samples,) of float32, the mean of its channels, and how many a second."""
    import numpy as np

    found: list[np.ndarray] = []
    with opened(data, "audio") as container:
        import av  # after opened() has said where there is none

        planar: Any = None
        for frame in _frames(container):
            if planar is None:
                rate, layout = frame.sample_rate, frame.layout
                planar = av.AudioResampler(format="fltp", layout=layout, rate=rate)
            is_plain = (frame.format.name, frame.sample_rate, frame.layout) == ("fltp", rate, layout)
            found += [_mono(one) for one in ([frame] if is_plain else planar.resample(frame))]
        if planar is not None:
            found += [_mono(one) for one in planar.resample(None)]
    if not found:
        raise MediaError("the audio has no samples: expected some.")
    return np.concatenate(found), rate


def _mono(frame: Any) -> np.ndarray:
    channels = frame.to_ndarray()
    return channels[0] if len(channels) == 1 else channels.mean(axis=0, dtype=channels.dtype)


def _frames(container: Any) -> Iterator[Any]:
    if not container.streams.audio:
        raise MediaError("the file has no audio: expected some.")
    stream = container.streams.audio[0]
    codec_of(stream, AUDIO_CODECS, "audio")
    for frame in container.decode(stream):
        if not 0 < frame.sample_rate <= MOST_RATE or frame.layout.nb_channels > MOST_CHANNELS:
            raise MediaError(
                f"the audio has {frame.layout.nb_channels} channels of {frame.sample_rate:,} samples a second: "
                f"expected at most {MOST_CHANNELS} of {MOST_RATE:,}."
            )
        yield frame


def _check_seconds(seconds: float, rules: MediaRules) -> None:
    if seconds > rules.max_seconds:
        raise MediaError(f"the audio has more than {rules.max_seconds:,g} seconds (max_media_seconds).")
