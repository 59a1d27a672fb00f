"""Unpacking: honest archives come out as they are, hostile ones do not come out at all."""

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from winclip_bench.data.archives import extract
from winclip_bench.errors import InputError

CONTENT = {"bolt/train/good/000.png": b"\x89PNG" * 500, "bolt/empty.txt": b"", "readme.txt": b"hello"}
LIMITS = {"max_bytes": 10_000, "max_members": 20}


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def write_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info, data in members:
            if info.isreg():
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def zip_member(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    return info


def found(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(archive: Path) -> str:
    """What is said about an archive; nothing may lie anywhere but in the folder it was to go to."""
    before = set(archive.parent.rglob("*"))
    target = archive.parent / "out"
    with pytest.raises(InputError) as caught:
        extract(archive, target, **LIMITS)
    outside = {path for path in archive.parent.rglob("*") if not path.is_relative_to(target)}
    assert outside == before
    assert not any(path.is_symlink() for path in target.rglob("*"))
    message = str(caught.value)
    assert message.startswith(str(archive))
    assert "replace it with the official archive" in message
    return message


@pytest.mark.parametrize("mode", ["w", "w:xz", "w:gz", "w:bz2"])
def test_a_tar_comes_out_as_it_is(tmp_path: Path, mode: str) -> None:
    members = [(member("./", tarfile.DIRTYPE), b""), (member("bolt/", tarfile.DIRTYPE), b"")]
    members += [(member(f"./{name}"), data) for name, data in CONTENT.items()]
    members += [(member("bolt/test", tarfile.DIRTYPE), b"")]
    advanced: list[int] = []
    archive = write_tar(tmp_path / "a", *members, mode=mode)
    assert extract(archive, tmp_path / "out", **LIMITS, advance=advanced.append) == len(CONTENT)
    assert found(tmp_path / "out") == CONTENT
    assert (tmp_path / "out/bolt/test").is_dir()
    assert sum(advanced) == sum(map(len, CONTENT.values()))


def test_a_zip_comes_out_as_it_is(tmp_path: Path) -> None:
    archive = write_zip(
        tmp_path / "a", ("bolt/", b""), *CONTENT.items(), (zip_member("u.txt", stat.S_IFREG | 0o644), b"u")
    )
    assert extract(archive, tmp_path / "out", **LIMITS) == len(CONTENT) + 1
    assert found(tmp_path / "out") == {**CONTENT, "u.txt": b"u"}


def test_names_of_any_length_and_script(tmp_path: Path) -> None:
    content = {"büro/" + "long" * 40 + "/000.png": b"x", "日本/Ω.png": b"y"}
    archive = write_tar(tmp_path / "a", *((member(name), data) for name, data in content.items()))
    extract(archive, tmp_path / "out", **LIMITS)
    assert found(tmp_path / "out") == content


def test_permissions_of_the_archive_do_not_count(tmp_path: Path) -> None:
    """Read-only folders would keep their own content out; set-user-id would let something in."""
    archive = write_tar(
        tmp_path / "a",
        (member("bolt", tarfile.DIRTYPE, mode=0o555), b""),
        (member("bolt/000.png", mode=0o6000), b"x"),
    )
    extract(archive, tmp_path / "out", **LIMITS)
    mode = (tmp_path / "out/bolt/000.png").stat().st_mode
    assert mode & stat.S_IRUSR
    assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR)


HOSTILE = [
    ([member("/tmp/x")], "absolute"),
    ([member("C:/x")], "absolute"),
    ([member("../x")], "leads out of the folder"),
    ([member("bolt/../../x")], "leads out of the folder"),
    ([member("../x", tarfile.DIRTYPE)], "leads out of the folder"),
    ([member("..\\x")], "is not a path"),
    ([member("a\x1b[31m")], "is not a path"),
    ([member(".")], "is not a path"),
    ([member("x", tarfile.SYMTYPE, linkname="/etc"), member("x/passwd")], "is a symbolic link"),
    ([member("x", tarfile.LNKTYPE, linkname="../secret")], "is a hard link"),
    ([member("x", tarfile.CHRTYPE)], "is a device"),
    ([member("x", tarfile.BLKTYPE)], "is a device"),
    ([member("x", tarfile.FIFOTYPE)], "is a device"),
    ([member("x", b"Z")], "is a special file"),
    ([member("x"), member("x")], "has the place of 'x'"),
    ([member("x"), member("./x")], "has the place of 'x'"),
    ([member("x"), member("x/y")], "has the place of 'x'"),
    ([member("x/y"), member("x")], "has the place of 'x'"),
    ([member("x", tarfile.DIRTYPE), member("x")], "has the place of 'x'"),
    ([member("a/X.png"), member("a/x.PNG")], "has the place of 'a/X.png'"),
    ([member("A/x.png"), member("a/y.png")], "has the place of 'A'"),
    ([member("caf\u00e9"), member("cafe\u0301")], "has the place of"),
    ([member(str(number)) for number in range(21)], "more than 20 members"),
]


@pytest.mark.parametrize(("members", "words"), HOSTILE, ids=lambda value: value if isinstance(value, str) else "")
def test_hostile_members_of_a_tar_are_refused(tmp_path: Path, members: list[tarfile.TarInfo], words: str) -> None:
    (tmp_path / "secret").write_text("secret")
    archive = write_tar(tmp_path / "a", (member("ok.txt"), b"ok"), *((info, b"x") for info in members))
    message = refusal(archive)
    assert words in message
    assert "is not unpacked" in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/tmp/x", "absolute"),
        ("a/../../x", "leads out of the folder"),
        (zip_member("x", stat.S_IFLNK | 0o777), "is a symbolic link"),
        (zip_member("x", stat.S_IFCHR), "is a special file"),
        ("OK.txt", "has the place of 'ok.txt'"),
    ],
)
def test_hostile_members_of_a_zip_are_refused(tmp_path: Path, name: str | zipfile.ZipInfo, words: str) -> None:
    assert words in refusal(write_zip(tmp_path / "a", ("ok.txt", b"ok"), (name, b"/etc/passwd")))


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    """A few bytes that declare a terabyte of holes."""
    info = member("x", tarfile.GNUTYPE_SPARSE, size=0)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % 5000  # the size with its holes
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "a").write_bytes(bytes(header) + bytes(1024))
    assert "is a special file" in refusal(tmp_path / "a")


@pytest.mark.parametrize("mode", ["w", "w:xz"])
def test_too_much_content_is_refused_before_it_is_written(tmp_path: Path, mode: str) -> None:
    archive = write_tar(tmp_path / "a", (member("x"), bytes(6000)), (member("y"), bytes(6000)), mode=mode)
    assert "its content is larger than 10,000 bytes" in refusal(archive)
    assert sorted(found(tmp_path / "out")) == ["x"]


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    assert "its content is larger than 10,000 bytes" in refusal(write_zip(tmp_path / "a", ("x", bytes(5_000_000))))
    assert found(tmp_path / "out") == {}


@pytest.mark.parametrize("compress", [lzma.compress, gzip.compress, bz2.compress])
def test_a_huge_header_is_refused(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    """Extended headers are no content, and tarfile would read them into memory, however large."""
    header = member("x", tarfile.XHDTYPE, size=1 << 30).tobuf(tarfile.USTAR_FORMAT)
    (tmp_path / "a").write_bytes(compress(header + bytes(100_000)))
    assert "header of 1,073,741,824 bytes" in refusal(tmp_path / "a")


def test_endless_small_headers_are_refused(tmp_path: Path) -> None:
    header = member("x", tarfile.XHDTYPE, size=1 << 23).tobuf(tarfile.USTAR_FORMAT)
    block = header + b"12 a=bcdefg\n" + bytes((1 << 23) - 12)
    (tmp_path / "a").write_bytes(gzip.compress(block * 4, 1))
    assert "it unpacks to more than" in refusal(tmp_path / "a")


def damaged_zip(path: Path) -> None:
    write_zip(path, ("x", bytes(range(256)) * 8))
    data = bytearray(path.read_bytes())
    data[40:60] = bytes(20)
    path.write_bytes(data)


def lying_zip(path: Path) -> None:
    """Declares 2,048 bytes and holds 1,024."""
    write_zip(path, ("x", bytes(1024)))
    path.write_bytes(path.read_bytes().replace((1024).to_bytes(4, "little"), (2048).to_bytes(4, "little")))


def truncated_tar(path: Path) -> None:
    write_tar(path, (member("x"), bytes(4096)))
    path.write_bytes(path.read_bytes()[:2048])


def truncated_xz(path: Path) -> None:
    write_tar(path, (member("x"), bytes(range(256)) * 16), mode="w:xz")
    path.write_bytes(path.read_bytes()[:-80])


def damaged_xz(path: Path) -> None:
    write_tar(path, (member("x"), bytes(range(256)) * 16), mode="w:xz")
    data = bytearray(path.read_bytes())
    data[60] ^= 255
    path.write_bytes(data)


def not_an_archive(path: Path) -> None:
    path.write_text("<html>please log in</html>")


@pytest.mark.parametrize(
    "damage",
    [damaged_zip, lying_zip, truncated_tar, truncated_xz, damaged_xz, not_an_archive],
    ids=lambda f: f.__name__,
)
def test_damaged_archives_are_refused(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(tmp_path / "a")
    refusal(tmp_path / "a")


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    archive = write_tar(tmp_path / "a", (member("x"), b"x"))
    with pytest.raises(InputError, match="File exists"):
        extract(archive, tmp_path / "out", **LIMITS)
    assert found(tmp_path / "out") == {}
