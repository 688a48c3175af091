"""Finding images and shards, and cutting them into units."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from camscribe.runtime.archive.inputs import Files, Members, cut_files, cut_shard, find, shard_images, shown
from camscribe.runtime.errors import SourceError

Photo = Callable[[int], bytes]
WriteTar = Callable[[Path, list[tuple[str, bytes]]], Path]


def test_a_folder_is_searched_with_its_sub_folders(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/z.PNG", "a/b/c.webp", ".hidden.jpg", ".thumbs/d.jpg", "notes.txt", "s/1.tar", "s/2.tgz"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "link").symlink_to(tmp_path)  # would go round for ever
    found = find(str(tmp_path))
    assert found.root == tmp_path
    assert found.files == ["a/b/c.webp", "a/z.PNG", "b.jpg"]
    assert found.shards == ["s/1.tar", "s/2.tgz"]
    assert found.problems == []


def test_a_glob_gives_files_and_folders_once_each(tmp_path: Path) -> None:
    for name in ("day1/x.jpg", "day2/x.jpg", "day2/y.tar", "night/z.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find(f"{tmp_path}/day*")
    assert (found.root, found.files, found.shards) == (tmp_path, ["day1/x.jpg", "day2/x.jpg"], ["day2/y.tar"])
    assert find(f"{tmp_path}/**").files == ["day1/x.jpg", "day2/x.jpg", "night/z.jpg"]
    assert find(f"{tmp_path}/day2/y.tar").shards == ["y.tar"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("empty", "empty: holds neither image files"),
        ("missing", "missing: no such file or folder; expected a folder, a tar file or a glob"),
        ("*.jpg", "holds neither image files"),
        ("s3://bucket/photos", "is a URL; expected"),
        ("text.txt", "holds neither image files"),
    ],
)
def test_an_input_without_images_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, expected: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"^[^\n]*$") as caught:
        find(source)
    assert expected in str(caught.value)


def test_a_name_that_is_no_utf8_can_be_shown(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).touch()
    (name,) = find(str(tmp_path)).files
    assert shown(name) == "caf\\udce9.jpg"
    assert (tmp_path / name).exists()


def test_files_are_cut_into_units_and_singles() -> None:
    units = list(cut_files("abcde", 2))
    assert units == [Files(("a", "b")), Files(("c", "d")), Files(("e",))]
    assert list(units[0].singles()) == [Files(("a",)), Files(("b",))]


def test_a_shard_is_cut_where_work_is_left(tmp_path: Path, photo: Photo, write_tar: WriteTar) -> None:
    members = [item for index in range(8) for item in ((f"{index}.png", photo(index)), (f"{index}.txt", b"text"))]
    write_tar(tmp_path / "s.tar", members)
    units, problem = cut_shard(tmp_path, "s.tar", [], 3)
    assert problem is None
    assert [(unit.start, unit.stop) for unit in units] == [(0, 3), (3, 6), (6, 8)]
    units, _ = cut_shard(tmp_path, "s.tar", [(0, 2), (5, 6)], 3)
    assert [(unit.start, unit.stop) for unit in units] == [(2, 5), (6, 8)]
    # Reading from a unit's header gives the images from there on.
    for unit in units:
        names = [member.name for _, member in shard_images(tmp_path / "s.tar", unit.offset)]
        assert names == [f"{index}.png" for index in range(unit.first, 8)]
    assert list(units[1].singles()) == [
        Members("s.tar", units[1].offset, 6, 6, 7),
        Members("s.tar", units[1].offset, 6, 7, 8),
    ]


def test_members_that_are_no_image_files_are_passed_over(tmp_path: Path, photo: Photo, write_tar: WriteTar) -> None:
    path = write_tar(
        tmp_path / "s.tar", [("a.png", photo(0)), ("._a.png", b"x"), ("a.json", b"{}"), ("a.png", photo(1))]
    )
    with tarfile.open(path, "a") as tar:
        for kind in (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE):
            entry = tarfile.TarInfo("link.png")
            entry.type, entry.linkname = kind, "a.png"
            tar.addfile(entry)
        tar.add(__file__, "x" * 200 + ".png")  # a long name has headers of its own
    assert [member.name[:9] for _, member in shard_images(path)] == ["a.png", "a.png", "xxxxxxxxx"]
    units, _ = cut_shard(tmp_path, "s.tar", [(0, 2)], 9)
    ((_, member),) = shard_images(path, units[0].offset)
    assert member.name == "x" * 200 + ".png"


@pytest.mark.parametrize(
    "damage", ["cut in an image", "cut in a header", "garbage", "not a tar", "empty", "compressed"]
)
def test_a_broken_shard_gives_what_is_before_the_damage(
    tmp_path: Path, photo: Photo, write_tar: WriteTar, damage: str
) -> None:
    path = write_tar(tmp_path / "s.tar", [(f"{index}.png", photo(index)) for index in range(4)])
    content = path.read_bytes()
    third = [member.offset for _, member in shard_images(path)][2]
    broken = {
        "cut in an image": content[: third + 600],
        "cut in a header": content[: third + 100],
        "garbage": content[:third] + b"garbage!" * 500,
        "not a tar": b"\xff\xd8\xff" * 1000,
        "empty": b"",
        "compressed": gzip.compress(content),
    }[damage]
    path.write_bytes(broken)
    units, problem = cut_shard(tmp_path, "s.tar", [], 10)
    good = {"cut in an image": 3, "cut in a header": 2, "garbage": 2}.get(damage, 0)
    assert sum(unit.images for unit in units) == good
    assert problem is not None
    assert problem.startswith(f"{path}: is ")
    assert "\n" not in problem


def test_a_shard_without_closing_blocks_is_whole(tmp_path: Path, photo: Photo, write_tar: WriteTar) -> None:
    """Some programs leave the zeros at the end away."""
    path = write_tar(tmp_path / "s.tar", [("0.png", photo(0)), ("1.png", photo(1))])
    path.write_bytes(path.read_bytes().rstrip(b"\0"))
    with path.open("ab") as file:
        file.write(b"\0" * (-file.tell() % 512))
    units, problem = cut_shard(tmp_path, "s.tar", [], 10)
    assert (sum(unit.images for unit in units), problem) == (2, None)
