"""Measures what compression costs and saves for each delivery: bytes on the wire and the server's CPU time, without and with it.

One channel has a publisher and some readers, and a message is published when all readers have the one before. The data of each
message is JSON: records of names, numbers and times, as in a feed of prices. The publisher does not compress.
"""
import json
import os
import random
import select
import socket
import statistics
import time

from measure import harness

SIZES = [256, 1024, 8192]
READERS = [1, 100, 1000]
# Different messages of one size, which are published in turn.
MESSAGES = 50
OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"


def main(words):
    parser = harness.parser("compression", __doc__, runs=3)
    parser.add_argument("--seconds", type=float, default=2, metavar="S", help="of each measurement [default: 2]")
    options = parser.parse_args(words)
    harness.build("--bins")
    cells = {(size, readers, on): [] for size in SIZES for readers in READERS for on in (False, True)}
    for number in range(options.runs):
        for (size, readers, on), runs in cells.items():
            harness.say(f"round {number + 1} of {options.runs}: {size} bytes, {readers} readers, {'on' if on else 'off'}")
            settings = {"websocket.compression": '"128B"' if on else '"off"'}
            with harness.Daemon(options.philote, settings) as daemon:
                runs.append(measure(daemon, size, readers, on, options.seconds))
    head = ["data, bytes", "readers", "wire bytes, off", "on", "server us a delivery, off", "on", "server us a message more"]
    body = []
    for size in SIZES:
        for readers in READERS:
            off, on = cells[size, readers, False], cells[size, readers, True]
            wire = [f"{statistics.median(run['wire'] for run in runs):,.0f}" for runs in (off, on)]
            times = [statistics.median(run["time"] for run in runs) for runs in (off, on)]
            more = (times[1] - times[0]) * readers
            body.append([str(size), f"{readers:,}", *wire, *(f"{time:.2f}" for time in times), f"{more:.0f}"])
    print(harness.table(head, body, left=0))


def measure(daemon, size, count, on, seconds):
    """Publishes for some seconds, and returns the bytes and the server's microseconds for each delivery."""
    address = daemon.address()
    publisher = connect(address, json.loads(daemon.ctl("token", "--write", "c", "--expires-in", "1h", "--json"))["token"], False)
    token = daemon.token("c")
    readers = [connect(address, token, on) for _ in range(count)]
    waiting = select.epoll()
    by_descriptor = {reader.fileno(): reader for reader in readers}
    for descriptor in by_descriptor:
        waiting.register(descriptor, select.EPOLLIN)
    frames = [client_frame(json.dumps({"channel": "c", "data": records(size, number)})) for number in range(MESSAGES)]
    wire = deliveries = 0
    for warm in (True, False):
        end = time.monotonic() + (seconds / 5 if warm else seconds)
        before, wire, deliveries = cpu_time(daemon.process.pid), 0, 0
        while time.monotonic() < end:
            publisher.sendall(frames[deliveries // count % MESSAGES])
            wire += receive(waiting, by_descriptor)
            deliveries += count
    used = cpu_time(daemon.process.pid) - before
    for connection in [publisher, *readers]:
        connection.close()
    return {"wire": wire / deliveries, "time": used / 1000 / deliveries}


def connect(address, token, on):
    connection = socket.create_connection(address)
    request = harness.upgrade_request(token)
    connection.sendall(request[:-2] + OFFER.encode() + b"\r\n" if on else request)
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(1)
    assert answer.startswith(b"HTTP/1.1 101 ") and (b"permessage-deflate" in answer) == on, answer
    return connection


def receive(waiting, readers):
    """Reads one whole frame from each reader, and returns their bytes. A ping and what follows it count as one frame."""
    left, wire, partial = len(readers), 0, {}
    while left:
        for descriptor, _ in waiting.poll():
            data = partial.pop(descriptor, b"") + readers[descriptor].recv(65536)
            while data[:1] == b"\x89":
                data = data[2 + data[1]:]
            if len(data) >= 4 and len(data) >= frame_length(data):
                assert len(data) == frame_length(data), "more than one frame"
                left -= 1
                wire += len(data)
            else:
                partial[descriptor] = data
    return wire


def frame_length(data):
    """The length of the frame that begins here, with its header of 2 or 4 bytes."""
    return 4 + int.from_bytes(data[2:4], "big") if data[1] == 126 else 2 + data[1]


def client_frame(text):
    payload = text.encode()
    # A masking key of zeros leaves the payload as it is.
    return b"\x81\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload


def records(size, seed):
    """A JSON text of this length, or a little less."""
    chance, rows = random.Random(seed), []
    while True:
        rows.append({"id": chance.randrange(10**6), "symbol": chance.choice(["EURUSD", "USDJPY", "GBPUSD", "AUDCAD"]),
                     "bid": round(chance.uniform(0.5, 150), 4), "ask": round(chance.uniform(0.5, 150), 4),
                     "at": f"2026-11-28T{chance.randrange(24):02}:{chance.randrange(60):02}:00Z"})
        text = json.dumps({"type": "prices", "rows": rows}, separators=(",", ":"))
        if len(text) > size:
            rows.pop()
            return json.dumps({"type": "prices", "rows": rows}, separators=(",", ":"))


def cpu_time(pid):
    """Nanoseconds that all threads of a process have run."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as file:
            total += int(file.read().split()[0])
    return total
