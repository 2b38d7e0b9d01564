"""What a row may give as a medium, and what becomes of it."""

from __future__ import annotations

import base64
import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rayllm_batch.media.decode import image_of
from rayllm_batch.media.media_error import MediaError
from rayllm_batch.media.medium import Medium
from rayllm_batch.media.reader import MediaReader
from rayllm_batch.media.rules import MediaRules


def encoded(
    form: str = "PNG", size: tuple[int, int] = (6, 4), mode: str = "RGB", colour: Any = 7, **more: Any
) -> bytes:
    with io.BytesIO() as file:
        Image.new(mode, size, colour).save(file, form, **more)
        return file.getvalue()


PNG = encoded(colour=(200, 10, 10))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a b.png").write_bytes(PNG)
    return tmp_path / "in"


@pytest.mark.parametrize(
    "source",
    [
        PNG,
        bytearray(PNG),
        memoryview(PNG),
        {"bytes": PNG, "path": None},
        {"bytes": None, "path": "a b.png"},
        "data:image/png;base64," + base64.b64encode(PNG).decode(),
        "DATA:;BASE64," + base64.b64encode(PNG).decode(),
        "a b.png",
        "../in/a b.png",
        "{folder}/a b.png",
        "file://{folder}/a%20b.png",
        "FILE://localhost{folder}/a%20b.png",
    ],
    ids=lambda source: f"{type(source).__name__} {bytes(source)[:4] if isinstance(source, memoryview) else source}"[
        :30
    ],
)
def test_one_image_in_each_of_its_forms(folder: Path, source: Any) -> None:
    if isinstance(source, str):
        source = source.replace("{folder}", str(folder))
    found = MediaReader(MediaRules(folder=str(folder))).read("image", source)
    assert (found.kind, found.data, found.width, found.height) == ("image", PNG, 6, 4)
    assert image_of(found).getpixel((0, 0)) == (200, 10, 10)


def test_decoded_images_are_known_by_their_pixels() -> None:
    reader = MediaReader(MediaRules())
    image = Image.open(io.BytesIO(PNG))
    array = np.asarray(image)
    found = [reader.read("image", one) for one in (image, array, image.convert("RGBA"))]
    assert len({one.digest for one in found}) == 1
    assert [(one.width, one.height) for one in found] == [(6, 4)] * 3
    assert (np.asarray(image_of(found[0])) == array).all()


def test_what_repeats_is_one_medium_and_a_bad_one_is_alone(folder: Path) -> None:
    reader = MediaReader(MediaRules(folder=str(folder)))
    found = reader.read_all(
        [("image", PNG), ("image", "a b.png"), ("image", b"x"), ("image", "no.png"), ("image", PNG)]
    )
    assert found[0] is found[1] is found[4]
    assert isinstance(found[0], Medium)
    assert "no image" in str(found[2]) and "No such file" in str(found[3])
    assert reader.read_all([]) == []


def test_a_rows_media_do_not_use_up_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayllm_batch.media.reader.MOST_TOGETHER", 2 * len(PNG))
    colours = [encoded(colour=(200, 10, number)) for number in range(5)]
    found = MediaReader(MediaRules()).read_all([("image", one) for one in colours])
    assert sum(isinstance(one, Medium) for one in found) == 2
    assert all("give fewer" in str(one) for one in found if isinstance(one, MediaError))


def test_a_link_that_is_put_there_after_the_check_is_not_followed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "out").mkdir()
    (folder.parent / "out" / "x.png").write_bytes(PNG)
    (folder / "sub").mkdir()
    (folder / "sub" / "x.png").write_bytes(PNG)
    resolve = os.path.realpath

    def swapped(path: str) -> str:
        found = resolve(path)
        if found.endswith("sub/x.png"):
            shutil.rmtree(folder / "sub")
            (folder / "sub").symlink_to("../out")
        return found

    monkeypatch.setattr(os.path, "realpath", swapped)
    with pytest.raises(MediaError, match="cannot be read"):
        MediaReader(MediaRules(folder=str(folder))).read("image", "sub/x.png")
    assert (folder / "sub" / "x.png").exists()


@pytest.mark.parametrize("source", ["a.example/b.png?sig=SECRET", "//a.example/b.png?sig=SECRET", "png;base64,SECRET"])
def test_a_url_that_lacks_its_beginning_is_no_path_to_be_shown(source: str, tmp_path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        MediaReader(MediaRules(folder=str(tmp_path))).read("image", source)
    assert "SECRET" not in str(caught.value)


def test_base64_without_its_head_is_no_path(folder: Path) -> None:
    with pytest.raises(MediaError, match="is no path: base64 needs data:image/png;base64,"):
        MediaReader(MediaRules(folder=str(folder))).read("image", base64.b64encode(bytes(9_000)).decode())


def test_bytes_are_not_shown() -> None:
    assert "PNG" not in repr(MediaReader(MediaRules()).read("image", PNG))


@pytest.mark.parametrize(
    "source", [None, 3, [], {}, {"path": None}, object(), "", "a\0b", "s3://b/k.png", {"bytes": 3}]
)
def test_anything_else_is_a_media_error(folder: Path, source: Any) -> None:
    with pytest.raises(MediaError, match="expected"):
        MediaReader(MediaRules(folder=str(folder))).read("image", source)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x20ftypisom\0\0\0\0", "a film"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b" <svg/>", "SVG"),
        (b"just text", "9 others"),
        (b"", "no bytes"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, name: str) -> None:
    with pytest.raises(MediaError, match=f"are no image: .* but .*{name}.* were given"):
        MediaReader(MediaRules()).read("image", data)
