"""Takes a request's body from the wire, in one pass and never more than allowed.

Role: multipart (`video` or one or more `image` parts, and `question`) or a raw body (`Content-Type: video/...` or
`image/...`, the question in the query). Parts are gathered in memory; once they grow, or the decoder asks for a path,
in a memory file (memfd) that its child opens through /proc, or a named file where there is no memfd.

Guarantees: the byte cap and the time limit hold for what is really sent, whatever Content-Length claims; all uploads
together hold no more than their `Room`; the files are gone when the `with` block ends, whatever happened in it, and
memory files also when the process is killed; named leftovers of a killed process are removed at the next start.
Not guaranteed: that the files are what their content type says; the decoder decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from components.shared.runtime.errors import InputError

FIELD_LIMIT = 1 << 16
GATHERED_BYTES = 1 << 20
FIELDS = ("question", "start_s", "times_s", "store")


class UploadRefused(InputError):
    """A body that is refused; `status` is the HTTP status to answer with."""

    def __init__(self, message: str, *, status: int, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.status = status


class Room:
    """Bytes that all uploads under way may hold together; only the event loop touches it."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes, self.held_bytes = size_bytes, 0

    def take(self, num_bytes: int) -> None:
        """Hold so many more.

        Raises:
            UploadRefused: 429, there is no room for them now.
        """
        if self.held_bytes + num_bytes > self.size_bytes:
            raise UploadRefused(
                f"uploads under way hold {self.held_bytes} of {self.size_bytes} bytes they may; this one was not read "
                "further.",
                status=429,
                remedy="Send it again in a moment.",
            )
        self.held_bytes += num_bytes


class MediaFile:
    """One part: in memory while it is small, in an anonymous file when it grows or when its path is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pending: list[bytes] = []
        self._waiting = 0
        self._handle = -1
        self._path: Path | None = None
        self.num_bytes = 0

    def write(self, data: bytes) -> None:
        """Append."""
        self._pending.append(data)
        self._waiting += len(data)
        self.num_bytes += len(data)
        if self._waiting >= GATHERED_BYTES:
            self._flush()

    @property
    def path(self) -> Path:
        """Where the decoder's child opens it; ask for it outside of the event loop."""
        if self._pending or self._path is None:
            self._flush()
        assert self._path is not None
        return self._path

    def close(self) -> None:
        """Let the bytes go."""
        self._pending = []
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
            if self._path is not None and self._path.parent == self._folder:
                self._path.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._path is None:
            self._open()
        view = memoryview(b"".join(self._pending))
        while view:
            view = view[os.write(self._handle, view) :]
        self._pending, self._waiting = [], 0

    def _open(self) -> None:
        if hasattr(os, "memfd_create"):
            self._handle = os.memfd_create("upload", os.MFD_CLOEXEC)
            self._path = Path(f"/proc/{os.getpid()}/fd/{self._handle}")
        else:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._handle, name = tempfile.mkstemp(prefix="upload-", dir=self._folder)
            self._path = Path(name)


@dataclass
class Upload:
    """What came: media files and the text fields."""

    videos: list[MediaFile] = field(default_factory=list)
    images: list[MediaFile] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    num_bytes: int = 0

    def add(self, folder: Path, *, is_image: bool) -> MediaFile:
        """A new media file."""
        made = MediaFile(folder)
        (self.images if is_image else self.videos).append(made)
        return made

    def close(self) -> None:
        """Let all files go."""
        for file in (*self.videos, *self.images):
            file.close()


def sweep(directory: Path) -> int:
    """Remove what a killed process left behind; returns how many uploads."""
    leftovers = list(directory.glob("upload-*")) if directory.is_dir() else []
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)


@dataclass(frozen=True)
class Limits:
    """What one upload may be: its body's bytes, its images, and the seconds until its last byte."""

    max_bytes: int
    max_images: int
    timeout_s: float


@contextlib.asynccontextmanager
async def received(request: Request, directory: Path, limits: Limits, room: Room) -> AsyncIterator[Upload]:
    """The request's upload, while the block runs.

    Raises:
        UploadRefused: too big (413), too slow (408), no room now (429), no media type we take (415), not parsable or
            without media (400).
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.max_bytes:
        raise too_big(limits.max_bytes)
    upload = Upload()
    try:
        try:
            async with asyncio.timeout(limits.timeout_s):
                await _read(request, upload, directory, limits, room)
        except TimeoutError:
            raise UploadRefused(
                f"{upload.num_bytes} bytes of the body came within {limits.timeout_s:g} s, and not its end; it was not "
                "read further.",
                status=408,
                remedy="Send a smaller clip or over a faster line; ttrl.upload_timeout_s sets the limit.",
            ) from None
        for name in FIELDS:
            if name in request.query_params and name not in upload.fields:
                upload.fields[name] = request.query_params[name]
        if not upload.videos and not upload.images:
            raise UploadRefused(
                "the request holds neither a video nor an image, so there is nothing to look at.",
                status=400,
                remedy="Send a part named `video`, or parts named `image`.",
            )
        if len(upload.videos) > 1 or (upload.videos and upload.images):
            raise UploadRefused(
                f"the request holds {len(upload.videos)} videos and {len(upload.images)} images, and one video or some "
                "images are taken; nothing was answered.",
                status=400,
                remedy="Send a request for each.",
            )
        yield upload
    finally:
        room.held_bytes -= upload.num_bytes
        upload.close()


def too_big(max_bytes: int) -> UploadRefused:
    """The refusal of a body over the cap."""
    return UploadRefused(
        f"the body is larger than {max_bytes} bytes and was not read further.",
        status=413,
        remedy="Send a shorter or smaller clip; ttrl.max_body_bytes sets the limit.",
    )


async def _read(request: Request, upload: Upload, folder: Path, limits: Limits, room: Room) -> None:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    kind = kind.lower()
    if kind == b"multipart/form-data":
        parts = _multipart(request, upload, folder, options.get(b"boundary", b""), limits, room)
    elif kind.startswith((b"video/", b"image/", b"application/octet-stream")):
        parts = _raw(request, upload, folder, limits, room, is_image=kind.startswith(b"image/"))
    else:
        shown = (
            f"content type {kind.decode(errors='replace')[:80]!r} is" if kind else "no content type is given, which is"
        )
        raise UploadRefused(
            f"{shown} not taken, so nothing was read.",
            status=415,
            remedy="Send multipart/form-data with a `video` or `image` part, or a raw video/ or image/ body.",
        )
    await parts


async def _chunks(request: Request, upload: Upload, limits: Limits, room: Room) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if upload.num_bytes + len(chunk) > limits.max_bytes:
            raise too_big(limits.max_bytes)
        room.take(len(chunk))
        upload.num_bytes += len(chunk)
        yield chunk


async def _raw(request: Request, upload: Upload, folder: Path, limits: Limits, room: Room, *, is_image: bool) -> None:
    file = None
    async for chunk in _chunks(request, upload, limits, room):
        if chunk:
            file = file or upload.add(folder, is_image=is_image)
            file.write(chunk)


async def _multipart(
    request: Request, upload: Upload, folder: Path, boundary: bytes, limits: Limits, room: Room
) -> None:
    if not boundary:
        raise UploadRefused(
            "multipart without a boundary cannot be read.", status=400, remedy="Let the client write the Content-Type."
        )
    parts = _Parts(upload, folder, limits.max_images)
    parser = MultipartParser(boundary, parts.callbacks())
    try:
        async for chunk in _chunks(request, upload, limits, room):
            parser.write(chunk)
        parser.finalize()
    except MultipartParseError as error:
        raise UploadRefused(f"the multipart body cannot be parsed ({type(error).__name__}).", status=400) from None
    if not parts.ended:
        raise UploadRefused("the multipart body ends before its last boundary.", status=400)


class _Parts:
    """The parser's callbacks: each part goes to a file or to a short text field."""

    def __init__(self, upload: Upload, folder: Path, max_images: int) -> None:
        self.upload = upload
        self.ended = False
        self._folder, self._max_images = folder, max_images
        self._name, self._value = b"", b""
        self._headers: dict[bytes, bytes] = {}
        self._field = ""
        self._text = bytearray()
        self._file: MediaFile | None = None

    def callbacks(self) -> Any:
        """The callback table of python_multipart."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._open,
            "on_part_data": self._data,
            "on_part_end": self._close,
            "on_end": self._end,
        }

    def _close(self) -> None:
        if self._file is not None:
            self._file = None
        elif self._field in FIELDS:
            try:
                self.upload.fields[self._field] = self._text.decode()
            except UnicodeDecodeError:
                raise UploadRefused(f"field {self._field} is not UTF-8 text.", status=400) from None
        self._field = ""

    def _begin(self) -> None:
        self._headers, self._name, self._value = {}, b"", b""
        self._text = bytearray()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._field = options.get(b"name", b"").decode(errors="replace")
        if self._field in FIELDS:
            return
        if self._field not in ("video", "image", "file"):
            raise UploadRefused(
                f"part {self._field[:40]!r} is not known, so the request was not read further.",
                status=400,
                remedy=f"Parts: video, image, {', '.join(FIELDS)}.",
            )
        kind, _ = parse_options_header(self._headers.get(b"content-type", b""))
        is_image = self._field == "image" or (self._field == "file" and kind.startswith(b"image/"))
        if is_image and len(self.upload.images) >= self._max_images:
            raise UploadRefused(
                f"more than {self._max_images} images in one request; it was not read further.",
                status=413,
                remedy="Send fewer; ttrl.max_images sets the limit.",
            )
        self._file = self.upload.add(self._folder, is_image=is_image)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
        else:
            self._text += data[start:end]
            if len(self._text) > FIELD_LIMIT:
                raise UploadRefused(f"field {self._field} is longer than {FIELD_LIMIT} bytes.", status=413)

    def _end(self) -> None:
        self.ended = True
