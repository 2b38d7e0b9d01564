"""Pixels, samples and frames of media that are unusual and good."""

from __future__ import annotations

import random
from typing import Any

import media_samples as made
import numpy as np
import pytest
from PIL import Image

from rayllm_batch.media import container
from rayllm_batch.media.decode import audio_of, image_of, video_of
from rayllm_batch.media.media_error import MediaError
from rayllm_batch.media.reader import MediaReader
from rayllm_batch.media.rules import MediaRules

READER = MediaReader(MediaRules())


def first_pixel(source: Any) -> tuple[int, ...]:
    found = READER.read("image", source)
    image = image_of(found)
    assert (image.mode, image.size) == ("RGB", (found.width, found.height))
    return image.getpixel((0, 0))


@pytest.mark.parametrize(
    ("source", "pixel"),
    [
        *((made.animation(form), made.RED) for form in ("GIF", "WEBP", "PNG", "TIFF")),
        (made.image(mode="P"), made.RED),
        (made.image(mode="RGBA", colour=(0, 0, 0, 0)), (255, 255, 255)),
        (made.image(mode="LA", colour=(0, 0)), (255, 255, 255)),
        (made.image("GIF", mode="P", transparency=0, colour=0), (255, 255, 255)),
        (made.image(mode="L", colour=77), (77, 77, 77)),
        (made.image(mode="1", colour=1), (255, 255, 255)),
        (made.image(mode="I;16", colour=77 * 256 + 9), (77, 77, 77)),
        (made.image("TIFF", mode="I;16", colour=77 * 256 + 9), (77, 77, 77)),
        (made.image("TIFF", mode="CMYK", colour=(255, 0, 255, 0)), (0, 255, 0)),
        (np.full((4, 6), 9, np.uint8), (9, 9, 9)),
        (np.full((4, 6, 1), 9, np.uint8), (9, 9, 9)),
        (np.full((4, 6, 4), (9, 9, 9, 0), np.uint8), (255, 255, 255)),
    ],
    ids=str,
)
def test_images_become_rgb_on_white(source: Any, pixel: tuple[int, ...]) -> None:
    assert first_pixel(source) == pixel


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_turned_as_pillow_turns_them(orientation: int, form: str) -> None:
    import io

    from PIL import Image, ImageOps

    data = made.turned(orientation, form)
    found = READER.read("image", data)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert (found.width, found.height) == expected.size
    assert (np.asarray(image_of(found)) == np.asarray(expected)).all()
    assert READER.read("image", Image.open(io.BytesIO(data))).width == found.width


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_pixels_whose_range_is_unknown_are_refused(mode: str) -> None:
    with pytest.raises(MediaError, match=f"mode {mode}"):
        READER.read("image", made.image("TIFF", mode=mode, colour=3))
    with pytest.raises(MediaError, match=f"mode {mode}"):
        READER.read("image", Image.new(mode, (6, 4), 3))


@pytest.mark.parametrize(
    "array", [np.zeros((4, 6, 3)), np.zeros((3, 4, 6), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 6, 3), np.uint8)]
)
def test_arrays_that_are_no_image(array: Any) -> None:
    with pytest.raises(MediaError, match="must be|expected some"):
        READER.read("image", array)


TONE = np.sin(np.arange(8_000) * 2 * np.pi * 440 / 16_000)


@pytest.mark.parametrize(
    "source",
    [
        made.wav(),
        made.wav(channels=2),
        made.wav(said=0xFFFFFFFF),
        made.sound(),
        made.sound("mp3", codec="libmp3lame"),
        made.sound("ogg", codec="libopus", rate=48_000),
        made.sound("mp4", codec="aac"),
        made.sound("adts", codec="aac"),
        made.sound("webm", codec="libopus", rate=48_000),
        (TONE, 16_000),
        ((TONE * 20_000).astype(np.int16), 16_000),
        {"array": TONE.tolist(), "sampling_rate": 16_000, "path": None},
    ],
    ids=[*"wav stereo stream flac mp3 opus m4a aac webm tuple int16 dict".split()],
)
def test_a_tone_is_heard(source: Any) -> None:
    found = READER.read("audio", source)
    samples, rate = audio_of(found)
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert found.seconds == pytest.approx(0.5, abs=0.1) and len(samples) / rate == pytest.approx(
        found.seconds, abs=0.01
    )
    assert np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples) == pytest.approx(440, abs=5)
    assert 0.5 < np.abs(samples).max() < 1.1


@pytest.mark.parametrize(
    ("samples", "rate"),
    [(np.zeros((2, 9)), 16_000), ([], 16_000), (["a"], 16_000), ([0.0], 0), ([0.0], 1e9), ([0.0], None), ([0.0], True)],
)
def test_samples_that_are_no_sound(samples: Any, rate: Any) -> None:
    with pytest.raises(MediaError, match="the audio's"):
        READER.read("audio", (samples, rate))


@pytest.mark.parametrize(
    ("form", "codec"),
    [
        ("mp4", "libx264"),
        ("mp4", "mpeg4"),
        ("webm", "libvpx-vp9"),
        ("matroska", "libx264"),
        ("avi", "mpeg4"),
        ("mov", "mjpeg"),
    ],
)
def test_frames_at_even_distances(form: str, codec: str) -> None:
    found = READER.read("video", made.video(form, codec))
    assert (found.width, found.height, found.frames) == (64, 48, 48)
    assert found.seconds == pytest.approx(2, abs=0.05)
    frames, said = video_of(found, 8)
    assert frames.shape == (8, 48, 64, 3) and frames.dtype == np.uint8
    assert said["frames_indices"] == [0, 6, 13, 20, 26, 33, 40, 47]
    assert np.allclose(frames.mean(axis=(1, 2, 3)), np.array(said["frames_indices"]) * 5, atol=6)
    assert said["fps"] == pytest.approx(24, abs=0.1) and said["total_num_frames"] == 48 and not said["do_sample_frames"]
    assert len(video_of(found, 100)[0]) == 48


def test_vllm_takes_what_is_said_of_a_video() -> None:
    """The same words as its own loader's."""
    import sysconfig
    from pathlib import Path

    base = Path(sysconfig.get_path("purelib")) / "vllm" / "multimodal" / "video.py"
    if not base.exists():
        pytest.skip("vLLM is not installed")
    text = base.read_text(encoding="utf-8")
    for name in video_of(READER.read("video", made.video(count=3)))[1]:
        assert f'"{name}"' in text, name


def test_without_pyav_the_row_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MediaError, match="pip install av"):
        READER.read("audio", made.wav())


def test_readers_are_chosen_by_the_first_bytes() -> None:
    known = {
        made.wav(): "wav",
        made.sound(): "flac",
        made.video(): "mov",
        b"ID3\x04": "mp3",
        b"\xff\xf1\x50\x80": "aac",
        b"": None,
        b"\xff": None,
    }
    assert [container.demuxer_of(data) for data in known] == list(known.values())


def test_files_with_bytes_changed_decode_or_are_refused() -> None:
    """bench/media_attacks.py --mutate has tried a hundred thousand."""
    chance, good = random.Random(0), made.whole()
    decoders = {"image": image_of, "audio": audio_of, "video": video_of}
    reader = MediaReader(MediaRules(max_pixels=1_000_000, max_seconds=10))
    outcomes = set()
    for _ in range(1_000):
        kind, data = chance.choice(good)
        try:
            medium = reader.read(kind, made.mutated(data, chance))
            found = decoders[kind](medium)
        except MediaError:
            outcomes.add((kind, "refused"))
            continue
        outcomes.add((kind, "decoded"))
        if kind == "image":
            assert found.size == (medium.width, medium.height)
    assert len(outcomes) == 6
