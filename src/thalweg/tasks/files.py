"""Reading the files of a data set: where they are looked for, and that they are the right ones."""

import gzip
import math
import os
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from textwrap import shorten

import numpy as np
from numpy.typing import NDArray

from thalweg.errors import UsageError

__all__ = ["DataFile", "idx", "read"]


@dataclass(frozen=True)
class DataFile:
    """A file of a data set, as it was published.

    Attributes:
        path: where it is below a folder of data sets, with / between the parts.
        sha256: of its content, in hexadecimal digits.
        urls: where it can be downloaded, the best source first.
        archive: where the URLs are of an archive that has the file under its path, a .tar.gz: the
            archive's hash as pooch writes it, such as `md5:` and hexadecimal digits.
    """

    path: str
    sha256: str
    urls: tuple[str, ...]
    archive: str | None = None

    @property
    def sources(self) -> str:
        """Where it can be downloaded, in words."""
        return ("the archive " if self.archive else "") + " or ".join(self.urls)


def read(file: DataFile) -> bytes:
    """The content of a file, once it is certain that it is the one that was published.

    It is looked for in the folder that the environment variable THALWEG_DATA names; that may be
    a folder that torchvision has downloaded to. Where only a file with `.xz` after its name is
    there, that one is decompressed. Where the variable is not set, the file is downloaded once
    and kept in the user's cache folder.

    Raises:
        UsageError: the file is not there or cannot be read or downloaded, or its sha256 is
            another. The message says where it was looked for and what can be done.
    """
    folder = os.environ.get("THALWEG_DATA")
    if folder:
        path = plain = Path(folder).expanduser() / file.path
        if not plain.exists():
            path = plain.with_name(f"{plain.name}.xz")
        if not path.exists():
            raise UsageError(
                f"the data file {plain} does not exist, nor does {path.name} beside it; "
                f"THALWEG_DATA is {folder!r}. Download it to that place from {file.sources}, set "
                f"THALWEG_DATA to the folder that has {file.path}, or unset THALWEG_DATA to have "
                "it downloaded."
            )
        remedy = f"Replace it by a fresh download from {file.sources}."
    else:
        path = _cached(file)
        remedy = f"Delete it to have it downloaded again from {file.sources}."
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the data file {path} cannot be read: {error}.") from error
    if path.suffix == ".xz":
        # Not every Python is built with it.
        import lzma

        try:
            content = lzma.decompress(content)
        except lzma.LZMAError as error:
            raise UsageError(
                f"the data file {path} cannot be decompressed: {error}. {remedy}"
            ) from error
    found = sha256(content).hexdigest()
    if found != file.sha256:
        raise UsageError(
            f"the data file {path} is truncated or altered: its sha256 is {found}, but must be "
            f"{file.sha256}. {remedy}"
        )
    return content


def _cached(file: DataFile) -> Path:
    try:
        import pooch  # pyright: ignore
        from filelock import FileLock
    except ImportError as error:
        raise UsageError(
            f"{file.path} has to be downloaded, which needs {error.name}: pip install "
            f'"thalweg[lab]". {_by_hand(file)}'
        ) from error
    cache = Path(pooch.os_cache("thalweg"))
    path = cache / file.path
    if path.exists():
        return path
    tried = [f"{path}: does not exist"]
    download = cache / file.urls[0].rpartition("/")[2] if file.archive else path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may want the same file; one of them downloads it for all.
        with FileLock(f"{download}.lock"):
            if path.exists():
                return path
            if _downloaded(file, download, tried):
                if download != path:
                    _extract(download, file.path, path)
                return path
    except (KeyError, tarfile.TarError) as error:
        tried.append(f"{download}: {error}")
    except OSError as error:
        tried.append(f"{path}: cannot be written ({error})")
    places = "\n  ".join(tried)
    raise UsageError(
        f"the data file {file.path} was not found. It was looked for at\n  {places}\n"
        f"Check the network and try again. {_by_hand(file)}"
    )


def _downloaded(file: DataFile, path: Path, tried: list[str]) -> bool:
    import pooch  # pyright: ignore

    for url in file.urls:
        try:
            known = file.archive or f"sha256:{file.sha256}"
            pooch.retrieve(url, known, path.name, str(path.parent))  # pyright: ignore
        except ValueError as error:
            reason, _, _ = str(error).partition(". ")
            tried.append(f"{url}: {reason}")
        except OSError as error:
            # requests puts what went wrong at the end of a long line that repeats the URL.
            reason = str(error).rpartition("Caused by ")[2]
            tried.append(f"{url}: {type(error).__name__} ({shorten(reason, 120)})")
        else:
            return True
    return False


def _extract(archive: Path, member: str, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    with tarfile.open(archive) as tar, part.open("wb") as target:
        source = tar.extractfile(member)
        if source is None:
            raise tarfile.TarError(f"{member} is not a file in it")
        shutil.copyfileobj(source, target)
    # Whoever does not wait for the lock finds all of it, or nothing.
    part.replace(path)


def _by_hand(file: DataFile) -> str:
    return (
        f"Or download it yourself from {file.sources}, put it into a folder of your own "
        f"as {file.path}, and set THALWEG_DATA to that folder; it is not set now."
    )


def idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """The array in a file of the idx format, in which MNIST and its successors are published.

    The format is described at http://yann.lecun.com/exdb/mnist/: two zero bytes, the type (8 for
    unsigned bytes, the only one read here), the number of dimensions, each dimension's size in
    four bytes, the highest first, and the elements, with the last dimension changing fastest.

    Args:
        content: what is in the file, compressed by gzip or not.
        name: the file's, for messages.

    Returns:
        The elements, in the shape that the file gives. They cannot be written to.

    Raises:
        UsageError: the content is not of this format, or shorter or longer than its header says.
    """
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UsageError(f"{name} cannot be decompressed: {error}.") from error
    if content[:3] != b"\0\0\x08" or len(content) < 4:
        raise UsageError(
            f"{name} starts with the bytes {content[:4].hex(' ')}, but an idx file of unsigned "
            "bytes starts with 00 00 08 and its number of dimensions."
        )
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise UsageError(
            f"{name} ends within its header: it has {len(content)} bytes, but the header {header}."
        )
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", content[3], 4))
    if len(content) - header != math.prod(shape):
        raise UsageError(
            f"{name} has {len(content) - header} elements, but its header says "
            f"{' x '.join(map(str, shape))} = {math.prod(shape)}."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)  # pyright: ignore
