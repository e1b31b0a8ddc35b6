"""What all parts of a run share: nodes, secrets, certificates, orders, and whether an ending follows from an order."""

import contextlib
import datetime
import itertools
import json
import random
import secrets
import ssl
import time
from collections import Counter

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from model import Model, filler
from node import GRACE, HISTORY, QUEUE_BYTES, QUEUE_MESSAGES, TTL, Nats, Node
from presence import Presence

# How long after an order its effects may still arrive, in seconds: the drain, and a busy machine. A slow client reads what
# was queued for it before.
EFFECT, EFFECT_IF_SLOW = 30, 120
# An answer to a message that is missing for longer than this, in seconds, is a violation.
ANSWER = 60


class World:
    """The parts of one run."""

    channels = [f"c:{number}" for number in range(12)]
    rooms = [f"room:{number}" for number in range(10)]
    flooded = "flood"

    def __init__(self, seed, nodes, directory, binaries):
        self.seed, self.now, self.stopping = seed, time.monotonic, False
        self.model = Model(self.now)
        self.presence = Presence(self.model, GRACE)
        self.clustered = nodes > 1
        self.nats = Nats(directory) if self.clustered else None
        secret = secrets.token_hex(32)
        self.nodes = [Node(f"node-{number + 1}", directory, binaries, self.nats, secret) for number in range(nodes)]
        self.serials, self.connections, self.orders = itertools.count(1), set(), []
        # The secrets that verify tokens, newest first, each with a number. The retired ones sign no more.
        self.keys, self.key_numbers, self.retired = [], itertools.count(1), set()
        self.endings, self.marks, self.restart_floors = Counter(), [], {}
        self.tls_context = ssl.create_default_context()
        self.tls_context.check_hostname, self.tls_context.verify_mode = False, ssl.CERT_NONE
        self.pairs = [make_pair(number) for number in range(4)]
        self.served = {node.name: [] for node in self.nodes}

    def random(self, name):
        return random.Random(f"{self.seed} {name}")

    async def start(self):
        if self.nats:
            await self.nats.start()
            self.keys = [(next(self.key_numbers), secrets.token_urlsafe(40))]
        for node in self.nodes:
            self.use_pair(node, self.pairs[0])
            if self.clustered:
                node.write_private("secret.given", self.keys[0][1] + "\n")
            node.configure()
            await node.start()
        if not self.clustered:
            await self.learn_secrets()

    async def learn_secrets(self):
        """Learns the secrets of a single node, which made them."""
        _, output, _ = await self.nodes[0].ctl("secret", "show", "--all")
        known = {secret: number for number, secret in self.keys}
        self.keys = [(known.get(line) or next(self.key_numbers), line) for line in output.split()]

    def use_pair(self, node, pair):
        certificate, key, served = pair
        (node.directory / "certificate.pem").write_text(certificate)
        node.write_private("key.pem", key)
        # The one before may be in handshakes that have begun.
        self.served[node.name] = [*self.served[node.name][-1:], served]

    def check_certificate(self, client):
        if client.tls:
            served = client.socket.transport.get_extra_info("ssl_object").getpeercert(True)
            if served not in self.served[client.node.name]:
                self.model.fail(f"{client.name} saw a certificate on {client.node.name} that was replaced long ago")

    # Tokens.

    def sign(self, claims, rng, newest=False):
        """Returns a token, the number of its secret, and when it expires."""
        usable = [key for key in self.keys if key[0] not in self.retired]
        number, secret = usable[0] if newest or rng.random() < 0.8 else rng.choice(usable)
        expires = None
        if not newest and rng.random() < 0.15 and "api" not in claims:
            expires = int(time.time()) + rng.randint(15, 90)
            claims = claims | {"exp": expires}
        return self.sign_with(secret, claims), number, expires

    def sign_with(self, secret, claims):
        return jwt.encode(claims, secret, algorithm="HS256")

    def key_is_old(self, number):
        return number != self.keys[0][0]

    # Messages.

    def message_row(self, message):
        return {"channel": message.channel, "data": self.data_of(message)}

    def data_of(self, message):
        return filler(message.key, message.size)

    def message_frame(self, message, **more):
        return json.dumps(self.message_row(message) | more)

    # Orders and faults, and what follows from them.

    @contextlib.contextmanager
    def ordering(self, kind, **what):
        """Notes that something is ordered or broken, from now until it is done and its effects have arrived."""
        order = {"kind": kind, "ended": None, **what}
        self.orders.append(order)
        if kind in ("restart", "kill", "nats"):
            self.model.calm_since = None
            self.marks.append((self.now(), kind))
        try:
            yield
        finally:
            order["ended"] = self.now()
            if not any(one["ended"] is None and one["kind"] in ("restart", "kill", "nats") for one in self.orders):
                self.model.calm_since = self.now()
            self.orders = [one for one in self.orders if self.recent(one, EFFECT_IF_SLOW)]

    def recent(self, order, effect):
        return order["ended"] is None or order["ended"] > self.now() - effect

    def order(self, *kinds, effect=EFFECT, **what):
        """Whether one of these was ordered lately."""
        fits = lambda order: all(order.get(key) == value for key, value in what.items())
        return any(order["kind"] in kinds and self.recent(order, effect) and fits(order) for order in self.orders)

    def may_break(self, node):
        return self.order("restart", "kill", node=node)

    def excuses(self, node):
        """Whether a node may refuse a message, or not know what became of it. On a busy machine NATS may be late by itself,
        which is counted."""
        if self.order("nats") or self.may_break(node):
            return True
        self.model.counts["late NATS"] += self.clustered
        return self.clustered

    def is_calm(self):
        return self.model.calm_since is not None and self.model.calm_since < self.now() - ANSWER

    def floor(self, names):
        """What has certainly been queued on these channels. In a cluster a node may be behind."""
        return {} if self.clustered else {name: place for name, place in self.model.floor(names).items() if place}

    def floors_of(self, client):
        """What a client must have got of each channel before the Close of a restart. A slow one may read that Close when
        the next process has ended, too."""
        if client.socket.close_code != 1012 or self.clustered or self.order("reconnect", subject=client.subject):
            return {}
        return self.restart_floors.get((client.node.name, client.start), {})

    def limits(self, node):
        return {
            "messages": HISTORY,
            "ttl": TTL,
            "queue_messages": QUEUE_MESSAGES,
            "queue_bytes": QUEUE_BYTES,
            "dense": not self.clustered,
            # The history of a single node ends with it.
            "started": 0 if self.clustered else node.started,
        }

    def count_ending(self, code, reason):
        # A ban is told with its end.
        self.endings[code, reason.split(" until ")[0]] += 1

    def ended(self, client, code, reason):
        """Judges how a connection ended."""
        self.count_ending(code, reason if isinstance(code, int) and code > 1006 else "")
        node, subject = client.node, client.subject
        expired = client.expires is not None and client.expires < time.time() + 2
        effect = EFFECT_IF_SLOW if client.slow else EFFECT
        broken = self.order("restart", "kill", node=node, effect=effect)
        withdrawn = self.order("withdraw", key=client.key, effect=effect)
        disconnected = self.order("disconnect", subject=subject, effect=effect)
        due = {
            1006: broken or client.slow,
            # A client that a node admits before it has read the log is told that messages may be missing.
            1012: broken or self.order("reconnect", subject=subject, effect=effect) and "missing" not in reason,
            1013: broken,
            4401: withdrawn or expired,
            4403: disconnected,
            4408: client.slow,
            4413: client.slow,
            "refused with 401": withdrawn or expired,
            "refused with 403": disconnected,
            "refused with 503": broken,
            "failed to connect": broken,
        }
        if not due.get(code) and not self.stopping:
            self.model.fail(f"the connection of {client.name} to {node.name} ended without a cause: {code} {reason}")

    def audit(self, last=False):
        self.model.audit(last)
        self.presence.audit()
        if self.is_calm():
            for client in self.connections:
                message = next(iter(client.waiting.values()), None)
                if message and message.sent < self.now() - ANSWER and not client.slow:
                    client.waiting.pop(message.key)
                    self.model.fail(f"{client.name}: no answer to {message} within {ANSWER} s")


def make_pair(number):
    """A key and a certificate for it, and what clients see of it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"localhost {number}")])
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + 90 * day)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    certificate = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    der = certificate.public_bytes(serialization.Encoding.DER)
    return certificate.public_bytes(pem).decode(), private.decode(), der
