"""Clients of philote.v1 that resume after each restart, with Python's standard library only, for tests/system.

resume.py ADDRESS READERS, with a token on standard input. Prints `begun` when all readers are connected, and publishes until
SIGTERM. Prints then what the readers got: messages that were acknowledged and did not arrive, messages that arrived twice or out of
order, resumptions, and those after which a reader was not told that it recovered.
"""
import asyncio, base64, json, os, signal, struct, sys

# How long a step may take, in seconds.
PATIENCE = 120


class Client:
    """One connection. Use `Client.open`."""

    @classmethod
    async def open(cls, address, token, since):
        """Connects as soon as the server is there. Returns the connection, and what the server answers to the token."""
        while True:
            self = cls()
            try:
                return self, await self.enter(address, token, since)
            except (OSError, EOFError):
                await asyncio.sleep(0.05)  # It is not there yet.

    async def enter(self, address, token, since):
        host, port = address.rsplit(":", 1)
        self.reader, self.writer = await asyncio.open_connection(host, int(port))
        key = base64.b64encode(os.urandom(16)).decode()
        self.writer.write(
            f"GET / HTTP/1.1\r\nHost: philote\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: philote.v1\r\n\r\n".encode()
        )
        head = await self.reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head:
            raise EOFError(head)
        self.send({"auth": token, "since": since})
        answer = await self.receive()
        if answer is None:
            raise EOFError
        return answer["access"]

    def send(self, message):
        self.frame(1, json.dumps(message).encode())

    def frame(self, opcode, payload):
        mask, length = os.urandom(4), len(payload)
        size = bytes([0x80 | length]) if length < 126 else struct.pack(">BH", 0xFE, length)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        self.writer.write(bytes([0x80 | opcode]) + size + mask + masked)

    async def receive(self):
        """Returns the next message, or None when the connection ends."""
        while True:
            try:
                head = await self.reader.readexactly(2)
                length = head[1]
                if length == 126:
                    (length,) = struct.unpack(">H", await self.reader.readexactly(2))
                payload = await self.reader.readexactly(length)
                opcode = head[0] & 0x0F
                if opcode == 1:
                    return json.loads(payload)
                if opcode == 9:
                    self.frame(10, payload)
                if opcode == 8:
                    self.frame(8, payload[:2])
                    await self.writer.drain()
                    self.writer.close()
                    return None
            except (OSError, EOFError):
                self.writer.close()
                return None


async def read(address, token, report, entered):
    """Reads to the end, over all restarts. Returns the numbers that arrived."""
    client, access = await Client.open(address, token, {})
    position, numbers = access["ids"]["resume"], []
    entered()
    while True:
        message = await client.receive()
        if message is None:
            client, access = await Client.open(address, token, {"resume": position})
            report["resumptions"] += 1
            report["not recovered"] += access["recovered"] != {"resume": True}
            position = access["ids"]["resume"]
            continue
        position = message["id"]
        if message["data"] == "end":
            return numbers
        numbers.append(int(message["data"]))


async def publish(address, token, stop):
    """Publishes numbers until the end. Returns those that were acknowledged."""
    client, _ = await Client.open(address, token, {})
    number, acknowledged = 0, []
    while True:
        data = "end" if stop.is_set() else str(number)
        number += 1
        client.send({"channel": "resume", "data": data, "ack": data})
        while (answer := await client.receive()) is not None and answer.get("ack") != data:
            if "error" in answer:
                raise RuntimeError(answer)
        if answer is None:
            client, _ = await Client.open(address, token, {})
        elif data == "end":
            return acknowledged
        else:
            acknowledged.append(int(data))
        await asyncio.sleep(0.1)  # A pace that a thousand readers in Python can follow.


async def main(address, count):
    tokens = json.loads(sys.stdin.readline())
    report = {"readers": count, "resumptions": 0, "not recovered": 0}
    stop, all_entered, left = asyncio.Event(), asyncio.Event(), [count]
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)

    def entered():
        left[0] -= 1
        if not left[0]:
            all_entered.set()

    readers = [asyncio.create_task(read(address, tokens["read"], report, entered)) for _ in range(count)]
    await asyncio.wait_for(all_entered.wait(), PATIENCE)
    print("begun", flush=True)
    acknowledged = await publish(address, tokens["write"], stop)
    arrived = await asyncio.wait_for(asyncio.gather(*readers), PATIENCE)
    wanted = set(acknowledged)
    report["messages"] = len(acknowledged)
    report["lost"] = sum(len(wanted.difference(numbers)) for numbers in arrived)
    report["double"] = sum(any(one >= other for one, other in zip(numbers, numbers[1:])) for numbers in arrived)
    report["different"] = sum(numbers != arrived[0] for numbers in arrived)
    print(json.dumps(report), flush=True)


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
