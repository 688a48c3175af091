"""Viewers of ``/stream.mjpg``, for ``web_viewers``: a process of their own, told on its input how many there shall be.

A line ``READING STALLED`` replaces whoever is there by so many; ``there`` is the answer once all are connected. The end
of the input ends it. Nothing but the standard library is imported, so that it is there at once.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import suppress


async def _main(port: int) -> None:
    writers: list[asyncio.StreamWriter] = []
    readers: set[asyncio.Task[None]] = set()
    while line := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        for task in readers:
            task.cancel()
        for writer in writers:
            writer.transport.abort()
        reading, stalled = map(int, line.split())
        arrived = await asyncio.gather(*(_connect(port) for _ in range(reading + stalled)))
        writers = [writer for _, writer in arrived]
        # Nobody reads from the others: their buffers fill, and the rest stays where it is.
        readers = {asyncio.create_task(_read(reader)) for reader, _ in arrived[:reading]}
        print("there", flush=True)


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connection = socket.socket()
    # Small, so that who stalls is seen to stall before it is measured.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=connection)
    writer.write(b"GET /stream.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
    status = await reader.readline()
    if not status.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"/stream.mjpg was refused: {status!r}")
    return reader, writer


async def _read(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while await reader.read(1 << 20):
            pass


if __name__ == "__main__":
    os.nice(5)  # real ones are elsewhere, and take no time of the captioner's machine
    asyncio.run(_main(int(sys.argv[1])))
