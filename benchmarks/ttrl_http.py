"""Uploads of 200 KB over 16 connections: our one-pass multipart and raw bodies beside FastAPI's UploadFile.

    python benchmarks/ttrl_http.py [--rounds 5] [--requests 800]

All three run in one uvicorn process, in alternation; client and server share the cores. Quote the ratios (medians of
per-round ratios), not the absolute figures. Only taking the body is measured: decoding and answering cost far more.
Both keep 200 KB in memory; ours enforces the caps as the bytes arrive.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path

import uvicorn
from fastapi import FastAPI, File, Form, UploadFile
from starlette.requests import Request

from components.ttrl.uploads import Limits, Room, received

SIZE = 200_000
CONNECTIONS = 16


def app(folder: Path):
    """The three contestants."""
    made = FastAPI()
    limits, room = Limits(max_bytes=1 << 26, max_images=64, timeout_s=60.0), Room(1 << 28)

    @made.post("/upload-file")
    async def upload_file(video: UploadFile = File(), question: str = Form()) -> dict:  # noqa: B008
        return {"bytes": len(await video.read()), "question": len(question)}

    @made.post("/ours")
    async def ours(request: Request) -> dict:
        async with received(request, folder, limits, room) as upload:
            return {"bytes": upload.videos[0].num_bytes, "question": len(upload.fields["question"])}

    return made


def serve(folder: Path) -> tuple[int, threading.Thread, object]:
    """Start uvicorn on a free port, in a thread."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app(folder), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    return listener.getsockname()[1], thread, server


def request(path: str, body: bytes, kind: str) -> bytes:
    """One HTTP/1.1 request as bytes."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def contestants() -> dict[str, bytes]:
    """Name -> request."""
    data = bytes(range(256)) * (SIZE // 256)
    parts = [
        b'--bound\r\nContent-Disposition: form-data; name="question"\r\n\r\nWhat is under way?\r\n',
        b'--bound\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\nContent-Type: video/mp4\r\n\r\n',
        data,
        b"\r\n--bound--\r\n",
    ]
    form = "multipart/form-data; boundary=bound"
    return {
        "UploadFile": request("/upload-file", b"".join(parts), form),
        "ours, multipart": request("/ours", b"".join(parts), form),
        "ours, raw": request("/ours?question=What%20is%20under%20way", data, "video/mp4"),
    }


async def rate(port: int, message: bytes, count: int) -> float:
    """Requests a second over CONNECTIONS connections."""

    async def connection(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(number):
            writer.write(message)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head.split(b"\r\n", 1)[0], head
            length = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
            body = await reader.readexactly(length)
            assert f'"bytes":{SIZE // 256 * 256}'.encode() in body, body
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(connection(count // CONNECTIONS) for _ in range(CONNECTIONS)))
    return count // CONNECTIONS * CONNECTIONS / (time.perf_counter() - started)


def main() -> None:
    """Measure in alternation and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=800)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        port, thread, server = serve(Path(folder))
        time.sleep(1)
        rates: dict[str, list[float]] = {name: [] for name in contestants()}
        for number in range(options.rounds + 1):
            for name, message in contestants().items():
                found = asyncio.run(rate(port, message, options.requests))
                if number:  # the first round warms up
                    rates[name].append(found)
        server.should_exit = True
        thread.join(10)
    for name, found in rates.items():
        ratio = statistics.median(one / base for one, base in zip(found, rates["UploadFile"], strict=True))
        print(f"{name:16} {statistics.median(found):7.0f} requests/s   {ratio:.2f} x UploadFile")


if __name__ == "__main__":
    main()
