"""Clients that send garbage: each must be answered or cut, and none may disturb the others."""

import asyncio
import base64
import os
import ssl
import struct

# The longest that the server may keep a client that breaks the protocol or says nothing, in seconds. Its own deadlines are
# handshake_timeout and the pings, and the machine may be busy.
PATIENCE = 120
# How much a hostile client reads before it gives up, in bytes.
MOST_READ = 1 << 20


def upgrade(token):
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        "GET / HTTP/1.1\r\nHost: philote\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {key}\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()


def frame(opcode, payload, final=True, masked=True, reserved=0, length=None):
    """A WebSocket frame, whose header may lie."""
    length = len(payload) if length is None else length
    first = (0x80 if final else 0) | reserved << 4 | opcode
    mask = 0x80 if masked else 0
    if length < 126:
        head = struct.pack("!BB", first, mask | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, mask | 126, length)
    else:
        head = struct.pack("!BBQ", first, mask | 127, length)
    # A mask of zeros leaves the payload as it is.
    return head + (b"\0\0\0\0" if masked else b"") + payload


class Hostile:
    """Sends one kind of garbage after the other."""

    def __init__(self, world, name):
        self.world, self.model, self.name, self.rng = world, world.model, name, world.random(name)

    async def run(self):
        while not self.world.stopping:
            await asyncio.sleep(self.rng.uniform(0.3, 2))
            attack = self.rng.choice(ATTACKS)
            node = self.rng.choice(self.world.nodes)
            try:
                await asyncio.wait_for(self.attack(node, attack), PATIENCE)
            except asyncio.TimeoutError:
                if not self.world.stopping:
                    self.model.fail(f"{node.name} kept a client after {attack.__name__} for {PATIENCE} s")
            except (OSError, EOFError):
                pass
            self.model.counts["garbage"] += 1

    async def attack(self, node, attack):
        port = node.tls_port if attack is noise_to_tls else node.plain_port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await attack(self, reader, writer)
            got = 0
            # The server ends the connection; what it sends meanwhile does not matter.
            while chunk := await reader.read(1 << 16):
                got += len(chunk)
                if got > MOST_READ:
                    return
        finally:
            writer.transport.abort()

    def token(self, claims=None):
        return self.world.sign(claims or {"read": ["garbage"], "write": ["garbage"], "sub": self.name}, self.rng)[0]

    async def opened(self, reader, writer):
        """Opens a WebSocket of the classic protocol. Returns whether the server did."""
        writer.write(upgrade(self.token()))
        head = await reader.readuntil(b"\r\n\r\n")
        return b" 101 " in head


async def noise(self, reader, writer):
    writer.write(self.rng.randbytes(self.rng.randint(1, 3000)))


async def noise_to_tls(self, reader, writer):
    writer.write(b"\x16\x03\x01" + self.rng.randbytes(self.rng.randint(1, 600)))


async def hello_to_plain(self, reader, writer):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="philote")
    try:
        hello.do_handshake()
    except ssl.SSLWantReadError:
        writer.write(outgoing.read())


async def half_a_request(self, reader, writer):
    writer.write(upgrade(self.token())[: self.rng.randint(1, 150)])


async def bad_token(self, reader, writer):
    token = self.token()
    at = self.rng.randrange(len(token) - 12)
    broken = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
    writer.write(upgrade(broken if self.rng.random() < 0.7 else "x" * self.rng.randint(0, 9000)))
    status = await reader.readuntil(b"\r\n")
    if b" 101 " in status:
        self.model.fail("a token with a changed character was accepted")


async def forged_token(self, reader, writer):
    writer.write(upgrade(self.world.sign_with("a secret of somebody else, long enough", {"read": [self.world.flooded]})))
    if b" 101 " in await reader.readuntil(b"\r\n"):
        self.model.fail("a token with another signature was accepted")


async def bad_frames(self, reader, writer):
    if not await self.opened(reader, writer):
        return
    frames = [
        frame(1, b"{}", masked=False),
        frame(self.rng.choice([3, 7, 11, 15]), b"x"),
        frame(1, b"x", reserved=self.rng.randint(1, 7)),
        frame(9, b"x" * 126),
        frame(0, b"stray"),
        frame(1, b"\xff\xfe\xed\xa0\x80"),
        frame(8, b"\x03"),
        frame(8, struct.pack("!H", self.rng.choice([0, 999, 1005, 1015, 5000]))),
        frame(1, b"", length=1 << 62),
        frame(2, b"x" * 100, length=1 << 20),
    ]
    writer.write(self.rng.choice(frames))


async def bad_messages(self, reader, writer):
    """Answered with errors on a connection that stays open, so it is closed here."""
    if not await self.opened(reader, writer):
        return
    texts = [b"null", b"[]", b"7", b"{", b"{}", b"[" * 5000]
    texts += [b'{"channel": 1}', b'{"join": "room"}', b'{"channel":"x","data":"\\ud800"}']
    for _ in range(20):
        writer.write(frame(self.rng.choice([1, 2]), self.rng.choice(texts)))
    writer.write(frame(8, struct.pack("!H", 1000)))


async def fragments(self, reader, writer):
    if not await self.opened(reader, writer):
        return
    writer.write(frame(1, b"x", final=False))
    for _ in range(3000):
        writer.write(frame(0, b"", final=False))


async def pings(self, reader, writer):
    if not await self.opened(reader, writer):
        return
    for _ in range(200):
        writer.write(frame(9, self.rng.randbytes(100)))
    await writer.drain()
    writer.write(frame(8, struct.pack("!H", 1000)))


async def gone(self, reader, writer):
    """Leaves right after the request, or in the middle of a frame."""
    writer.write(upgrade(self.token()) + self.rng.choice([b"", frame(1, b"x" * 50)[:20]]))
    await asyncio.sleep(self.rng.random() * 0.1)
    writer.transport.abort()


async def bad_requests(self, reader, writer):
    requests = [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"GET /api/info HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * 20000),
        b"POST /api/publish HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    writer.write(self.rng.choice(requests))
    writer.write_eof()


ATTACKS = [
    noise, noise_to_tls, hello_to_plain, half_a_request, bad_token, forged_token, bad_frames, bad_messages, fragments, pings,
    gone, bad_requests,
]
