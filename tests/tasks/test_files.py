"""Data files: where they are looked for, that their hash is checked, and the idx format."""

import gzip
import io
import lzma
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from hashlib import md5, sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from thalweg.errors import UsageError
from thalweg.tasks.files import DataFile, idx, read

CONTENT = b"a data set, all of it"
HASH = sha256(CONTENT).hexdigest()
URLS = ("http://127.0.0.1:9/first/part.gz", "http://127.0.0.1:9/second/part.gz")
FILE = DataFile("Set/raw/part.gz", HASH, URLS)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that THALWEG_DATA names, with no file in it yet."""
    monkeypatch.setenv("THALWEG_DATA", str(tmp_path))
    (tmp_path / "Set" / "raw").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of downloads."""
    pooch = pytest.importorskip("pooch")
    pooch.get_logger().setLevel("WARNING")
    monkeypatch.delenv("THALWEG_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "cache" / "thalweg"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which its files can be downloaded."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def assert_says(caught: pytest.ExceptionInfo[UsageError], *parts: object) -> None:
    for part in parts:
        assert str(part) in str(caught.value)


def test_folder_in_thalweg_data_is_read(folder: Path):
    (folder / FILE.path).write_bytes(CONTENT)
    assert read(FILE) == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT.upper(), b""])
def test_truncated_or_altered_file_is_refused(folder: Path, content: bytes):
    (folder / FILE.path).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read(FILE)
    assert_says(caught, folder / FILE.path, HASH, sha256(content).hexdigest(), "Replace", *URLS)


def test_file_missing_in_thalweg_data(folder: Path):
    with pytest.raises(UsageError) as caught:
        read(FILE)
    assert_says(caught, folder / FILE.path, "does not exist", "part.gz.xz", "THALWEG_DATA", *URLS)


def test_thalweg_data_is_not_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("THALWEG_DATA", str(folder / "nowhere"))
    with pytest.raises(UsageError) as caught:
        read(FILE)
    assert_says(caught, folder / "nowhere" / FILE.path, "does not exist")


def test_unreadable_file(folder: Path):
    (folder / FILE.path).mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        read(FILE)


def test_download_is_kept(cache: Path, served: tuple[Path, str]):
    source, url = served
    (source / "part.gz").write_bytes(CONTENT)
    file = DataFile(FILE.path, HASH, (url + "part.gz",))
    assert read(file) == CONTENT
    assert (cache / FILE.path).read_bytes() == CONTENT
    (source / "part.gz").unlink()
    assert read(file) == CONTENT


@pytest.mark.parametrize("first", ["missing.gz", "altered.gz"])
def test_second_source_is_tried(cache: Path, served: tuple[Path, str], first: str):
    source, url = served
    (source / "altered.gz").write_bytes(CONTENT[1:])
    (source / "part.gz").write_bytes(CONTENT)
    assert read(DataFile(FILE.path, HASH, (url + first, url + "part.gz"))) == CONTENT


def test_altered_download_is_refused(cache: Path, served: tuple[Path, str]):
    source, url = served
    (source / "part.gz").write_bytes(CONTENT[1:])
    with pytest.raises(UsageError) as caught:
        read(DataFile(FILE.path, HASH, (url + "part.gz",)))
    assert_says(caught, url + "part.gz", HASH, sha256(CONTENT[1:]).hexdigest(), "THALWEG_DATA")
    assert not list(cache.rglob("part.gz"))


def test_no_network(cache: Path):
    with pytest.raises(UsageError) as caught:
        read(FILE)
    assert_says(caught, cache / FILE.path, "Connection", "network", "THALWEG_DATA", *URLS)


def test_altered_file_in_the_cache_is_refused(cache: Path):
    (cache / FILE.path).parent.mkdir(parents=True)
    (cache / FILE.path).write_bytes(CONTENT[1:])
    with pytest.raises(UsageError) as caught:
        read(FILE)
    assert_says(caught, cache / FILE.path, HASH, sha256(CONTENT[1:]).hexdigest(), "Delete", *URLS)


def test_cache_that_cannot_be_made(cache: Path):
    cache.parent.write_text("a file in the way of the folder")
    with pytest.raises(UsageError) as caught:
        read(FILE)
    assert_says(caught, cache / FILE.path, "THALWEG_DATA")


def test_pooch_is_not_installed(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(UsageError) as caught:
        read(FILE)
    assert_says(caught, FILE.path, "needs pooch", "THALWEG_DATA", *URLS)


def test_empty_thalweg_data_is_as_unset(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("THALWEG_DATA", "")
    (cache / FILE.path).parent.mkdir(parents=True)
    (cache / FILE.path).write_bytes(CONTENT)
    assert read(FILE) == CONTENT


def xz(folder: Path, content: bytes) -> Path:
    path = folder / f"{FILE.path}.xz"
    path.write_bytes(content)
    return path


def test_file_compressed_by_xz_is_read(folder: Path):
    xz(folder, lzma.compress(CONTENT))
    assert read(FILE) == CONTENT


def test_plain_file_goes_before_a_compressed_one(folder: Path):
    (folder / FILE.path).write_bytes(CONTENT)
    xz(folder, b"anything")
    assert read(FILE) == CONTENT


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lzma.compress(CONTENT)[:-20], "cannot be decompressed"),
        (b"", "cannot be decompressed"),
        (CONTENT, "cannot be decompressed"),
        (lzma.compress(CONTENT[1:]), sha256(CONTENT[1:]).hexdigest()),
    ],
    ids=["truncated", "empty", "not compressed", "altered"],
)
def test_compressed_file_that_is_damaged(folder: Path, content: bytes, says: str):
    path = xz(folder, content)
    with pytest.raises(UsageError) as caught:
        read(FILE)
    assert_says(caught, path, says, "Replace", *URLS)


def tarred(**members: bytes) -> bytes:
    """An archive of files in a folder `Set`, and of the folder."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        folder = tarfile.TarInfo("Set")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in members.items():
            info = tarfile.TarInfo(f"Set/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def in_archive(served: tuple[Path, str], archive: bytes, path: str = "Set/one") -> DataFile:
    folder, url = served
    (folder / "set.tar.gz").write_bytes(archive)
    known = f"md5:{md5(archive).hexdigest()}"
    return DataFile(path, HASH, (url + "set.tar.gz",), known)


def test_file_in_an_archive_is_extracted(cache: Path, served: tuple[Path, str]):
    file = in_archive(served, tarred(one=CONTENT, two=b"else"))
    assert read(file) == CONTENT
    (served[0] / "set.tar.gz").unlink()
    assert read(file) == CONTENT
    # The next one needs no download, nor does one that was deleted.
    other = replace(file, path="Set/two", sha256=sha256(b"else").hexdigest())
    assert read(other) == b"else"
    (cache / "Set" / "one").unlink()
    assert read(file) == CONTENT
    assert not list(cache.rglob("*.part"))


def test_altered_archive_is_refused(cache: Path, served: tuple[Path, str]):
    file = in_archive(served, tarred(one=CONTENT))
    (served[0] / "set.tar.gz").write_bytes(tarred(one=CONTENT[1:]))
    with pytest.raises(UsageError) as caught:
        read(file)
    assert_says(caught, *file.urls, "hash", str(file.archive).removeprefix("md5:"))
    assert not (cache / "Set" / "one").exists()


@pytest.mark.parametrize("path", ["Set/other", "Set"])
def test_archive_without_the_file(cache: Path, served: tuple[Path, str], path: str):
    file = in_archive(served, tarred(one=CONTENT), path)
    with pytest.raises(UsageError) as caught:
        read(file)
    assert_says(caught, cache / "set.tar.gz", path, "THALWEG_DATA", f"the archive {file.urls[0]}")


def test_another_file_in_the_archive_is_refused(cache: Path, served: tuple[Path, str]):
    file = in_archive(served, tarred(one=CONTENT[1:]))
    with pytest.raises(UsageError) as caught:
        read(file)
    assert_says(caught, cache / "Set" / "one", HASH, sha256(CONTENT[1:]).hexdigest())


HEADER = bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3])


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_array(pack: type[bytes]):
    array = idx(pack(HEADER + bytes(range(6))), "x")
    assert array.dtype == np.uint8
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_idx_sizes_are_big_endian():
    content = bytes([0, 0, 8, 1, 0, 0, 1, 2]) + bytes(258)
    assert idx(content, "x").shape == (258,)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "starts with"),
        (b"\0\0\x08", "starts with"),
        (b"PNG" + HEADER, "50 4e 47 00"),
        (HEADER.replace(b"\x08", b"\x0d") + bytes(24), "00 00 0d 02"),
        (HEADER[:10], "has 10 bytes, but the header 12"),
        (HEADER + bytes(5), "has 5 elements, but its header says 2 x 3 = 6"),
        (HEADER + bytes(7), "has 7 elements, but its header says 2 x 3 = 6"),
        (gzip.compress(HEADER + bytes(6))[:-9], "cannot be decompressed"),
        (gzip.compress(HEADER + bytes(6))[:-8] + bytes(8), "cannot be decompressed"),
        (b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 9, "cannot be decompressed"),
    ],
)
def test_what_is_no_idx_file_is_refused(content: bytes, says: str):
    with pytest.raises(UsageError) as caught:
        idx(content, "part.gz")
    assert_says(caught, "part.gz", says)
