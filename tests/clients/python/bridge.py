"""Takes the suite's clients, which speak HTTP/1.1 in clear text, to a server in another way.

bridge.py PORT SERVER:PORT HOST (h1|h2) [CA]

With h1 bytes pass as they are; with h2 each client becomes a stream of its own connection (RFC 8441). With the file of an
authority there is TLS, and ALPN must choose the protocol that was asked for. An end of either side's bytes is told to the other,
and what breaks on one side breaks on the other.
"""

import asyncio
import base64
import hashlib
import ssl
import struct
import socket
import sys

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

CHUNK = 1 << 16
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# Fields of the opening handshake that HTTP/2 has no use for.
HOP_BY_HOP = {b"host", b"connection", b"upgrade", b"sec-websocket-key"}


def reset(writer):
    """Closes a connection by RST: its peer must not take it for a proper end."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def copy(reader, writer):
    while chunk := await reader.read(CHUNK):
        writer.write(chunk)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:
        # TLS has no end of one side here; the end of both then.
        writer.close()


async def pass_through(client, server):
    await asyncio.gather(copy(client[0], server[1]), copy(server[0], client[1]))


class Stream:
    """One WebSocket on an HTTP/2 connection of its own."""

    def __init__(self, client, server, host, scheme):
        self.client, self.server, self.host, self.scheme = client, server, host, scheme
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.id = None
        self.key = b""
        self.more = asyncio.Event()
        self.answered = asyncio.Event()
        self.ended = asyncio.Event()

    async def flush(self):
        self.server[1].write(self.h2.data_to_send())
        await self.server[1].drain()

    async def run(self):
        self.h2.initiate_connection()
        await self.flush()
        both = [asyncio.create_task(self.read()), asyncio.create_task(self.write())]
        try:
            # Writing is done when both sides have ended; reading ends before where it fails, or nobody takes what we write.
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in both:
                task.cancel()

    async def write(self):
        head = await self.client[0].readuntil(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        path = lines[0].split(b" ")[1]
        fields = [tuple(part.strip() for part in line.split(b":", 1)) for line in lines[1:] if line]
        fields = [(name.lower(), value) for name, value in fields]
        self.key = dict(fields)[b"sec-websocket-key"]
        # RFC 8441 part 3: not before the server has said that it can.
        while not self.h2.remote_settings.enable_connect_protocol:
            await self.wait()
        request = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", self.scheme), (b":path", path)]
        request += [(b":authority", self.host.encode())]
        self.id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(self.id, request + [f for f in fields if f[0] not in HOP_BY_HOP])
        await self.flush()
        await self.answered.wait()
        try:
            await self.copy()
        except h2.exceptions.StreamClosedError:
            # The server had said all, and has closed our side too: what it said must reach the client.
            pass
        await self.ended.wait()

    async def copy(self):
        while chunk := await self.client[0].read(CHUNK):
            while chunk:
                room = min(self.h2.local_flow_control_window(self.id), self.h2.max_outbound_frame_size, len(chunk))
                if room > 0:
                    self.h2.send_data(self.id, chunk[:room])
                    chunk = chunk[room:]
                    await self.flush()
                else:
                    await self.wait()
        self.h2.end_stream(self.id)
        await self.flush()

    async def wait(self):
        self.more.clear()
        await self.more.wait()

    async def read(self):
        while chunk := await self.server[0].read(CHUNK):
            for event in self.h2.receive_data(chunk):
                if isinstance(event, h2.events.ResponseReceived):
                    self.answer(event.headers)
                elif isinstance(event, h2.events.DataReceived):
                    self.client[1].write(event.data)
                    await self.client[1].drain()
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                elif isinstance(event, h2.events.StreamEnded):
                    self.client[1].write_eof()
                    self.ended.set()
                elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                    if self.ended.is_set():
                        return
                    raise ConnectionError(str(event))
            await self.flush()
            self.more.set()
        if not self.ended.is_set():
            raise ConnectionError("the connection ended and the stream had not")

    def answer(self, headers):
        fields = dict(headers)
        if fields[b":status"] != b"200":
            raise ConnectionError(f"answered {fields}")
        accept = base64.b64encode(hashlib.sha1(self.key + GUID).digest())
        head = [b"HTTP/1.1 101 Switching Protocols", b"Connection: Upgrade", b"Upgrade: websocket"]
        head += [b"Sec-WebSocket-Accept: " + accept]
        head += [name + b": " + value for name, value in headers if not name.startswith(b":")]
        self.client[1].write(b"\r\n".join(head) + b"\r\n\r\n")
        self.answered.set()


async def main():
    port, server, host, version, authority = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], sys.argv[5:]
    address, to = server.rsplit(":", 1)
    tls, alpn = {}, {"h1": "http/1.1", "h2": "h2"}[version]
    if authority:
        context = ssl.create_default_context(cafile=authority[0])
        context.set_alpn_protocols([alpn])
        tls = {"ssl": context, "server_hostname": host}

    # The loop itself does not keep who waits for one that is not read: the collector would take them.
    serving = set()

    async def serve(*client):
        serving.add(asyncio.current_task())
        server = None
        try:
            server = await asyncio.open_connection(address, int(to), **tls)
            if tls and server[1].get_extra_info("ssl_object").selected_alpn_protocol() != alpn:
                raise ConnectionError(f"the server does not speak {alpn}")
            if version == "h1":
                await pass_through(client, server)
            else:
                await Stream(client, server, host, b"https" if tls else b"http").run()
            client[1].close()
        except Exception as error:
            print(f"{error!r}", file=sys.stderr, flush=True)
            reset(client[1])
        finally:
            serving.discard(asyncio.current_task())
            if server:
                server[1].close()

    async with await asyncio.start_server(serve, "127.0.0.1", port, backlog=1024) as listener:
        print("ready", flush=True)
        await listener.serve_forever()


asyncio.run(main())
