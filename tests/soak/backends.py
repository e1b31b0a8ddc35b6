"""Publishers that are no readers: backends with the HTTP API, and administrators with philotectl."""

import asyncio
import json

from model import position_of

# The longest that an answer may take, in seconds.
PATIENCE = 60
# A burst, which fills the queue of a reader that has stopped: messages, and bytes of data in each.
BURST, BURST_SIZE = 180, 4000


class Backend:
    """Publishes over HTTP, a connection for each request or one for several."""

    def __init__(self, world, name, burst=False):
        self.world, self.model, self.name, self.burst = world, world.model, name, burst
        self.rng, self.sequence, self.lifetime = world.random(name), 0, 0
        self.reader = self.writer = self.node = None

    async def run(self):
        while not self.world.stopping:
            if self.burst:
                await asyncio.sleep(self.rng.uniform(10, 25))
                for _ in range(self.rng.randint(1, 2)):
                    await self.publish([self.message(self.world.flooded, BURST_SIZE) for _ in range(BURST)])
            else:
                await asyncio.sleep(self.rng.uniform(0.2, 1.2))
                names = self.rng.choices(self.world.channels + self.world.rooms, k=self.rng.randint(1, 4))
                await self.publish([self.message(name, self.rng.randrange(20, 300)) for name in names])
        self.close()

    def message(self, name, size):
        self.sequence += 1
        readers = [client for client in self.world.connections if name in client.reading and len(client.server_id) == 36]
        excluded = [client.server_id for client in readers if self.rng.random() < 0.3] if self.rng.random() < 0.1 else []
        return self.model.publish(f"{self.name}/{self.sequence}", name, size, exclude=excluded)

    async def publish(self, messages):
        """Publishes messages; in a cluster again until they are stored, which their keys make safe."""
        while True:
            status, answer = await self.request("POST", "/api/publish", self.body(messages))
            if status == 200:
                return self.note(messages, answer["published"])
            expected = status is None or status == 503 and self.world.excuses(self.node)
            if not expected:
                self.model.fail(f"{self.name}: the API answered {status} to a publish: {answer}")
            if not self.world.clustered or self.world.stopping:
                refused = status is not None and not self.world.clustered
                for message in messages:
                    self.model.refused(message) if refused else self.model.unknown(message)
                return
            for message in messages:
                message.retried = True
            await asyncio.sleep(0.5)

    def body(self, messages):
        rows = []
        for message in messages:
            row = self.world.message_row(message)
            if message.exclude:
                row["exclude"] = sorted(message.exclude)
            if self.world.clustered:
                row["key"] = message.key
            rows.append(row)
        return rows if len(rows) > 1 else rows[0]

    def note(self, messages, published):
        for message, row in zip(messages, published, strict=True):
            if row["channel"] != message.channel:
                self.model.fail(f"{self.name}: the answer to {message} is {row}")
            self.model.acked(message, position_of(row["id"]) if "id" in row else None)

    async def request(self, method, path, body):
        """Returns the status and the answer, or None and why there is none."""
        try:
            if self.writer is None or self.lifetime <= 0:
                self.close()
                self.node, self.lifetime = self.rng.choice(self.world.nodes), self.rng.randint(1, 20)
                opening = asyncio.open_connection("127.0.0.1", self.node.plain_port)
                self.reader, self.writer = await asyncio.wait_for(opening, PATIENCE)
            self.lifetime -= 1
            token, self.key, _ = self.world.sign({"api": True}, self.rng)
            content = json.dumps(body).encode()
            head = f"{method} {path} HTTP/1.1\r\nHost: philote\r\nAuthorization: Bearer {token}\r\n"
            self.writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            status, answer, kept = await asyncio.wait_for(read_answer(self.reader), PATIENCE)
            if not kept:
                self.close()
            if status == 401 and self.world.order("withdraw", key=self.key):
                return None, answer
            return status, answer
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            self.close()
            if isinstance(error, asyncio.TimeoutError) or not self.world.may_break(self.node):
                what = f"{type(error).__name__} {error}"
                self.model.fail(f"{self.name}: no answer from {self.node.name} to {method} {path}: {what}")
            return None, None

    def close(self):
        if self.writer:
            self.writer.transport.abort()
        self.writer = None


async def read_answer(reader):
    """Returns an answer's status, document, and whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    status, *lines = head.split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
    body = await reader.readexactly(int(fields.get("content-length", 0)))
    return int(status.split()[1]), json.loads(body) if body else None, fields.get("connection") != "close"


class Administrator:
    """Publishes with philotectl."""

    def __init__(self, world, name):
        self.world, self.model, self.name = world, world.model, name
        self.rng, self.sequence = world.random(name), 0

    async def run(self):
        while not self.world.stopping:
            await asyncio.sleep(self.rng.uniform(2, 5))
            node, name = self.rng.choice(self.world.nodes), self.rng.choice(self.world.channels + self.world.rooms)
            messages = []
            for _ in range(self.rng.randint(1, 3)):
                self.sequence += 1
                messages.append(self.model.publish(f"{self.name}/{self.sequence}", name, 40))
            lines = [self.world.data_of(message) for message in messages]
            status, _, error = await node.ctl("publish", name, given="".join(f"{line}\n" for line in lines))
            if status == 0:
                for message in messages:
                    self.model.acked(message)
                continue
            if not self.world.excuses(node):
                self.model.fail(f"philotectl publish failed with {status} on {node.name}: {error}")
            for message in messages:
                self.model.unknown(message)
