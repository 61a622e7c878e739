"""An echo server for WebSocket, without limits that a case of the suite would meet: echo.py PORT."""

import asyncio
import logging
import os
import sys

os.environ["WEBSOCKETS_MAX_FRAGMENTS"] = str(1 << 20)

from websockets.asyncio.server import serve  # noqa: E402

# Larger than the largest message of the suite. Units: bytes.
MAX_MESSAGE = 64 << 20


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def main():
    # It is asked for errors all the time; what it thinks of them the suite hears.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    async with serve(echo, "0.0.0.0", int(sys.argv[1]), max_size=MAX_MESSAGE, ping_interval=None) as server:
        print("ready", flush=True)
        await server.serve_forever()


asyncio.run(main())
