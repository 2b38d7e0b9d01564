"""The picture benchmark's files, which both get. No engine runs here."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from bench import images


def test_the_pictures_are_the_same_each_time_and_differ(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    names = images.make_files(tmp_path / "a", 4, 64)
    assert names == images.make_files(tmp_path / "b", 4, 64)
    files = [(tmp_path / "a" / name).read_bytes() for name in names]
    assert files == [(tmp_path / "b" / name).read_bytes() for name in names] and len(set(files)) == 4
    sizes = [Image.open(tmp_path / "a" / name).size for name in names]
    assert {width for width, _ in sizes} == {64} and len({height for _, height in sizes}) > 1
