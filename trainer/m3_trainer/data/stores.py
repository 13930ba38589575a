"""Where files lie: a URI becomes the files that it names, and each of them a path on this machine, one at a time."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from m3_trainer import errors

WEB = ("http://", "https://")
LONGEST_SILENCE_SECONDS = 60
"""Of a web server. aiohttp's own limit is five minutes for the whole file, however large."""
REFUSED = (401, 403)
GOOGLE_KEY = "GOOGLE_CREDENTIALS"


@dataclass(frozen=True)
class File:
    """A file of the data: its name, below the folder that the URI names, and its path in the store."""

    name: str
    path: str


@dataclass(frozen=True)
class Store:
    """The files that a URI names, sorted by name, in their file system of fsspec."""

    uri: str
    filesystem: Any
    files: tuple[File, ...]

    @contextmanager
    def local(self, file: File) -> Iterator[Path]:
        """The file where it is, or fetched into a folder that is removed again: of many, one at a time takes disk.

        Raises `DataError` where it cannot be had or is empty, `SourceUnavailable` where its store does not answer.
        """
        if is_local(self.uri):
            yield _not_empty(Path(file.path), self.shown(file))
            return
        with tempfile.TemporaryDirectory(prefix="m3-data-") as folder:
            target = Path(folder) / PurePosixPath(file.name).name
            with explained(self.shown(file)):
                self.filesystem.get_file(file.path, str(target))
            yield _not_empty(target, self.shown(file))

    def shown(self, file: File) -> str:
        """The file in a message: the URI as the user wrote it, or the file of many."""
        return shown(self.uri) if len(self.files) == 1 else f"{file.name} of {shown(self.uri)}"


def open_store(uri: str) -> Store:
    """Find the files of a path, a folder, or a pattern with `*`.

    Raises `DataError` where there are none, `SourceUnavailable` where their store does not answer.
    """
    import fsspec

    place = str(Path(uri.removeprefix("file://")).expanduser()) if is_local(uri) else uri
    with explained(shown(uri)):
        filesystem, path = fsspec.core.url_to_fs(place, skip_instance_cache=True, **store_options(uri))
        files = _look(filesystem, uri, path)
    if not files:
        kind = "match at least one file" if "*" in uri else "hold at least one file"
        raise errors.DataError(f"data.uri: {shown(uri)} must {kind}; there is none")
    return Store(uri, filesystem, tuple(sorted(files, key=lambda file: file.name)))


def _look(filesystem: Any, uri: str, path: str) -> list[File]:
    if uri.startswith(WEB):  # not even asked for its head: an address that is signed for GET refuses HEAD
        return [File(PurePosixPath(urlsplit(uri).path).name or "data", path)]
    if "*" in path:
        found = filesystem.glob(path, detail=True)
        return _below(path[: path.index("*")], (each for each, info in found.items() if info["type"] == "file"))
    if is_local(uri) and not filesystem.exists(path):
        raise errors.DataError(
            f"data.uri: the file {uri.removeprefix('file://')} must exist where the job runs; looked from {Path.cwd()}. "
            "In a cluster use a URL (s3://…, https://…) or a mounted volume"
        )
    if uri.endswith("/") or filesystem.info(path)["type"] == "directory":
        return _below(f"{path}/", filesystem.find(path))
    return [File(PurePosixPath(path).name, path)]


def _below(start: str, paths: Iterable[str]) -> list[File]:
    """Files by their name below the folder that `start` ends in; not those that tools hide (`_SUCCESS`, `.crc`)."""
    folder = start.rpartition("/")[0]
    files = [File(path.removeprefix(folder).lstrip("/"), path) for path in paths]
    return [file for file in files if not any(part[0] in "._" for part in PurePosixPath(file.name).parts)]


def _not_empty(path: Path, name: str) -> Path:
    if path.stat().st_size == 0:
        raise errors.DataError(f"data.uri: the file {name} must hold rows, is empty")
    return path


def is_local(uri: str) -> bool:
    """Whether it is a path on this machine."""
    return "://" not in uri or uri.startswith("file://")


def shown(uri: str) -> str:
    """The URI in a message: what follows `?` in an address may be its signature."""
    return uri.split("?")[0] if uri.startswith(WEB) else uri


def store_options(uri: str) -> dict[str, Any]:
    """What fsspec's file system of this URI is made with.

    A store of one's own (MinIO) is named by `AWS_ENDPOINT_URL`, as in every AWS client. Google's key of a service account is
    the content of `GOOGLE_CREDENTIALS`, because a Secret's keys become variables; without it gcsfs looks where Google's own
    clients look. Web servers are asked as the environment says: `HTTPS_PROXY`, `NO_PROXY`, and user and password from
    `~/.netrc`. Raises `DataError` where the key is none.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if uri.startswith("s3://") and endpoint:
        return {"endpoint_url": endpoint}
    if uri.startswith("gs://"):
        logging.getLogger("gcsfs").setLevel(
            logging.CRITICAL
        )  # it logs each refusal with a traceback, and raises it as well
        return {"token": _google_key()} if os.environ.get(GOOGLE_KEY) else {}
    if uri.startswith(WEB):
        import aiohttp

        patience = aiohttp.ClientTimeout(
            total=None, sock_connect=LONGEST_SILENCE_SECONDS, sock_read=LONGEST_SILENCE_SECONDS
        )
        return {"client_kwargs": {"trust_env": True, "timeout": patience}}
    return {}


def _google_key() -> dict[str, Any]:
    try:
        key = json.loads(os.environ[GOOGLE_KEY])
    except ValueError:
        key = None
    if not isinstance(key, dict) or "type" not in key:
        raise errors.DataError(
            f"data.uri: {GOOGLE_KEY} must be the JSON key of a service account itself, not its path (that is "
            "GOOGLE_APPLICATION_CREDENTIALS)"
        )
    return key


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what file systems and their clients raise into what the user can mend."""
    try:
        yield
    except FileNotFoundError as error:
        raise errors.DataError(f"data.uri: {uri} must exist; its store has no such file, folder or bucket") from error
    except PermissionError as error:
        raise _refused(uri, error) from error
    except ImportError as error:
        raise errors.InvalidSpec(f"data.uri: reading {urlsplit(uri).scheme}:// needs a package: {error}") from error
    except ValueError as error:  # fsspec's word for a URL or credentials that it cannot use
        raise errors.DataError(f"data.uri: {uri} must be readable: {errors.last_line(error)}") from error
    except OSError as error:
        if errors.is_disk_full(error):
            raise
        raise errors.SourceUnavailable(
            f"data.uri: the store of {uri} must answer: {errors.last_line(error)}"
        ) from error
    except Exception as error:
        if not is_from_a_store(error):
            raise
        if getattr(error, "status", None) in REFUSED or type(error).__name__ == "NoCredentialsError":
            raise _refused(uri, error) from error
        raise errors.SourceUnavailable(f"data.uri: {uri} must be readable: {_said(error)}") from error


def _refused(uri: str, error: Exception) -> errors.DataError:
    return errors.DataError(
        f"data.uri: {uri} must be readable with the credentials in the environment (in the cluster: `data.secretRef`): "
        f"{_said(error)}"
    )


def _said(error: Exception) -> str:
    """aiohttp adds the address to what the server has said, with all that follows `?`."""
    status, message = getattr(error, "status", None), getattr(error, "message", None)
    return f"{status} {message}" if status else errors.last_line(error)


def is_from_a_store(error: Exception) -> bool:
    """botocore's and aiohttp's errors have no common base, and importing both only to name them would cost a second."""
    return type(error).__module__.split(".")[0] in ("aiohttp", "botocore", "aiobotocore", "s3fs", "gcsfs", "fsspec")
