"""A WebSocket client with Python's standard library only, for tests/system: `talk` once, wait for the `next` message or to be `closed`, or generate
`traffic`.

client.py talk|next|closed|traffic ADDRESS [AUTHORITY], with a token on standard input. ADDRESS is HOST:PORT or unix:PATH. With the
certificate AUTHORITY the connection uses TLS.
"""
import base64, json, os, signal, socket, ssl, struct, sys, threading

# The name in the server's certificate.
NAME = "chat.philote.invalid"


class Refused(Exception):
    """The server could not be reached, or its answer was not 101."""


def connect(place, authority):
    if place.startswith("unix:"):
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(20)
        plain.connect(place.removeprefix("unix:"))
        return plain
    host, port = place.rsplit(":", 1)
    plain = socket.create_connection((host, int(port)), timeout=20)
    return ssl.create_default_context(cafile=authority).wrap_socket(plain, server_hostname=NAME) if authority else plain


class Client:
    def __init__(self, server, token):
        try:
            self.socket = connect(*server)
            key = base64.b64encode(os.urandom(16)).decode()
            self.socket.sendall(
                f"GET / HTTP/1.1\r\nHost: {NAME}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: {key}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
            )
            self.file = self.socket.makefile("rb")
            status = self.file.readline().decode()
            while self.file.readline() not in (b"\r\n", b""):
                pass
        except OSError as error:
            raise Refused(str(error)) from error
        if " 101 " not in status:
            raise Refused(status.strip() or "closed without an answer")

    def send(self, opcode, payload):
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        self.socket.sendall(bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + masked)

    def publish(self, channel, data):
        self.send(1, json.dumps({"channel": channel, "data": data}).encode())

    def receive(self):
        """Returns the next message as (1, text), a close as (8, code), or None if the connection ends."""
        while True:
            head = self.file.read(2)
            if len(head) < 2:
                return None
            length = head[1] & 0x7F
            if length == 126:
                length = struct.unpack(">H", self.file.read(2))[0]
            payload = self.file.read(length)
            opcode = head[0] & 0x0F
            if opcode == 9:
                self.send(10, payload)
            elif opcode == 8:
                self.send(8, payload[:2])
                return 8, struct.unpack(">H", payload[:2])[0]
            elif opcode == 1:
                return 1, json.loads(payload)


def talk(server, token):
    reader, writer = Client(server, token), Client(server, token)
    writer.publish("chat", "hello")
    print(reader.receive()[1]["data"])


def follow(server, token):
    """Prints a line when it is connected, and the next message, or the code with which the server closes the connection."""
    client = Client(server, token)
    print("connected", flush=True)
    kind, content = client.receive()
    print(content if kind == 8 else content["data"], flush=True)


def traffic(server, token):
    """Runs until SIGTERM: connections that stay and reconnect when told to, and others that open and close all the time."""
    lock, stop = threading.Lock(), threading.Event()
    count = {"connections": 0, "refused": [], "messages": 0, "closes": {}}

    def attempt():
        try:
            client = Client(server, token)
        except Refused as refused:
            with lock:
                count["refused"].append(str(refused))
            return None
        with lock:
            count["connections"] += 1
            if count["connections"] == 100:
                print("begun", flush=True)
        return client

    def stay():
        while not stop.is_set():
            client = attempt()
            while client:
                frame = client.receive()
                with lock:
                    if frame and frame[0] == 1:
                        count["messages"] += 1
                        continue
                    end = str(frame[1]) if frame else "none"
                    count["closes"][end] = count["closes"].get(end, 0) + 1
                client = None

    def come_and_go():
        while not stop.is_set():
            client = attempt()
            if client:
                try:
                    client.publish("chat", "hello")
                    client.send(8, struct.pack(">H", 1000))
                    while frame := client.receive():
                        if frame[0] == 8:
                            break
                except OSError:
                    pass  # closed by the server, which is not a rejection
                client.socket.close()

    for job in [stay] * 20 + [come_and_go] * 4:
        threading.Thread(target=job, daemon=True).start()
    signal.sigwait({signal.SIGTERM})
    stop.set()
    with lock:
        print(json.dumps(count), flush=True)
    os._exit(0)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    mode, server = sys.argv[1], (sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
    {"talk": talk, "next": follow, "closed": follow, "traffic": traffic}[mode](server, sys.stdin.readline().strip())
