"""What administrators do to a running server, and what breaks."""

import asyncio
import secrets
import signal

from backends import Backend

# How long an order may take until the last connection has ended, in seconds.
OBEYED = 45
# What a reload must refuse.
WRONG = [
    "\n[history]\nmessages = 5\n",
    "\n[log]\nlevl = 1\n",
    "\nmax_connections",
    "\n[metrics]\nlisten = 7\n",
    "\n[unknown]\n",
]


class Faults:
    """Gives orders and breaks things, at random, until it is stopped."""

    def __init__(self, world, minutes):
        self.world, self.model, self.rng = world, world.model, world.random("faults")
        self.seconds, self.began = minutes * 60, world.now()
        self.backend = Backend(world, "orders")
        self.locks = {node.name: asyncio.Lock() for node in world.nodes}
        self.counts = world.model.counts

    def passed(self):
        return self.world.now() - self.began

    def over(self):
        """Ends early, so that the last part of a run is calm."""
        return self.passed() > self.seconds - min(20, self.seconds / 3) or self.world.stopping

    async def orders(self):
        """Small things, one after the other."""
        kinds = [self.reload, self.refused_reload, self.hangup]
        kinds += [self.rotate, self.withdraw, self.certificate, self.disconnect]
        turn = 0
        while not self.over():
            await asyncio.sleep(self.rng.uniform(1, 3) if self.seconds < 300 else self.rng.uniform(2, 10))
            # Each kind in turn, in another order each time.
            if turn % len(kinds) == 0:
                self.rng.shuffle(kinds)
            await kinds[turn % len(kinds)]()
            turn += 1

    async def breakdowns(self):
        """Restarts, kills, and the end of NATS."""
        kinds = [self.restart, self.kill] + ([self.stop_nats] if self.world.nats else [])
        turn = 0
        while True:
            await asyncio.sleep(self.rng.uniform(6, 12) if self.seconds < 300 else self.rng.uniform(40, 120))
            if self.over():
                return
            if turn % len(kinds) == 0:
                self.rng.shuffle(kinds)
            await kinds[turn % len(kinds)]()
            turn += 1

    def breakable(self):
        """The nodes that may be restarted now. In a long run the first one lasts, so that its memory can be judged."""
        lasting = self.seconds >= 1500 and 540 < self.passed() < self.seconds - min(420, self.seconds / 8)
        return self.world.nodes[1:] if lasting else self.world.nodes

    # Breakdowns.

    async def restart(self):
        """Ends a node as systemd does, and starts it again behind its sockets."""
        if not self.breakable():
            return
        node = self.rng.choice(self.breakable())
        async with self.locks[node.name]:
            with self.world.ordering("restart", node=node):
                self.world.restart_floors[node.name, node.starts] = self.world.floor([*self.world.channels, *self.world.rooms])
                status = await node.end(signal.SIGTERM)
                if status != 0:
                    self.model.fail(f"{node.name} ended with {status} after SIGTERM: {node.log()[-1000:]}")
                await asyncio.sleep(self.rng.uniform(0, 1))
                await node.start()
                self.counts["restarts"] += 1

    async def kill(self):
        if not self.breakable():
            return
        node = self.rng.choice(self.breakable())
        async with self.locks[node.name]:
            with self.world.ordering("kill", node=node):
                await node.end(signal.SIGKILL)
                await asyncio.sleep(self.rng.uniform(0, 1))
                await node.start()
                self.counts["kills"] += 1

    async def stop_nats(self):
        with self.world.ordering("nats"):
            number = self.rng.choice([signal.SIGTERM, signal.SIGKILL])
            await self.world.nats.end(number)
            await asyncio.sleep(self.rng.uniform(0.5, 6))
            await self.world.nats.start()
            for node in self.world.nodes:
                await self.linked(node)
            self.counts["restarts of NATS"] += 1

    async def linked(self, node):
        """Waits until a node has its link to NATS again."""
        for _ in range(600):
            async with self.locks[node.name]:
                if (await node.status())["cluster"]["up"]:
                    return
            await asyncio.sleep(0.1)
        self.model.fail(f"{node.name} has no link to NATS 60 s after NATS is back")

    # Orders.

    async def reload(self):
        """Changes settings, which closes no connection."""
        node = self.rng.choice(self.world.nodes)
        async with self.locks[node.name]:
            node.level, node.maximum = self.rng.choice(["info", "warning"]), 1000 + self.rng.randrange(100)
            node.configure()
            await self.reloaded(node)
            self.counts["reloads"] += 1

    async def reloaded(self, node):
        status, _, error = await node.ctl("reload")
        if status != 0:
            self.model.fail(f"{node.name} refused good settings with {status}: {error}")

    async def refused_reload(self):
        """Tries wrong settings, or a key that does not match its certificate; neither may change anything."""
        node = self.rng.choice(self.world.nodes)
        async with self.locks[node.name]:
            key = (node.directory / "key.pem").read_text()
            if self.rng.random() < 0.3:
                other = next(pair for pair in self.world.pairs if pair[1] != key)
                node.write_private("key.pem", other[1])
            else:
                node.configure(self.rng.choice(WRONG))
            status, _, error = await node.ctl("reload")
            if status != 1 or not error:
                self.model.fail(f"{node.name} answered {status} to a reload of wrong settings: {error}")
            node.write_private("key.pem", key)
            node.configure()
            self.counts["refused reloads"] += 1

    async def hangup(self):
        """Reloads by the signal, several times at once."""
        node = self.rng.choice(self.world.nodes)
        async with self.locks[node.name]:
            for _ in range(self.rng.randint(1, 5)):
                node.process.send_signal(signal.SIGHUP)
            self.counts["hangups"] += 1

    async def rotate(self):
        """Adds a new secret, which signs from now on."""
        if len(self.world.keys) > 3:
            return
        async with AllOf(self.locks.values()):
            if self.world.clustered:
                keys = [(next(self.world.key_numbers), secrets.token_urlsafe(40)), *self.world.keys]
                await self.give(keys)
                self.world.keys = keys
            else:
                status, _, error = await self.world.nodes[0].ctl("secret", "rotate")
                if status != 0:
                    self.model.fail(f"philotectl secret rotate failed with {status}: {error}")
                await self.world.learn_secrets()
            self.counts["rotations"] += 1

    async def give(self, keys):
        for node in self.world.nodes:
            node.write_private("secret.given", "".join(f"{secret}\n" for _, secret in keys))
            await self.reloaded(node)

    async def withdraw(self):
        """Removes the oldest secret, which ends the connections whose tokens it signed."""
        if len(self.world.keys) < 2:
            return
        number = self.world.keys[-1][0]
        self.world.retired.add(number)
        await asyncio.sleep(self.rng.uniform(0, 5))
        async with AllOf(self.locks.values()):
            concerned = [client for client in self.world.connections if client.key == number]
            with self.world.ordering("withdraw", key=number):
                keys = self.world.keys[:-1]
                if self.world.clustered:
                    await self.give(keys)
                else:
                    given = "".join(f"{secret}\n" for _, secret in keys)
                    status, _, error = await self.world.nodes[0].ctl("secret", "set", given=given)
                    if status != 0:
                        self.model.fail(f"philotectl secret set failed with {status}: {error}")
                self.world.keys = keys
                self.counts["withdrawn secrets"] += 1
                await self.obeyed(concerned, lambda client: client.key == number, "its secret was withdrawn")

    async def obeyed(self, clients, still, why):
        """Waits until the present connections of these clients have ended, and fails if they do not."""
        serials = {client: client.serial for client in clients if not client.slow}
        stays = lambda client: client.serial == serials[client] and client in self.world.connections and still(client)
        left = serials
        for _ in range(OBEYED * 10):
            left = [client for client in left if stays(client)]
            if not left:
                return
            await asyncio.sleep(0.1)
        for client in left:
            self.model.fail(f"{client.name} is still connected to {client.node.name} {OBEYED} s after {why}")

    async def certificate(self):
        node = self.rng.choice(self.world.nodes)
        async with self.locks[node.name]:
            now = (node.directory / "key.pem").read_text()
            self.world.use_pair(node, self.rng.choice([pair for pair in self.world.pairs if pair[1] != now]))
            await self.reloaded(node)
            self.counts["certificates"] += 1

    async def disconnect(self):
        """Disconnects a subject, or asks it to connect again, with philotectl or over HTTP; sometimes with a short ban."""
        clients = [client for client in self.world.connections if not client.slow]
        if not clients or self.world.order("nats"):
            return
        node, subject = self.rng.choice(self.world.nodes), self.rng.choice(clients).subject
        kind, ban = self.rng.choice([("reconnect", False), ("disconnect", False), ("disconnect", True)])
        async with AllOf(self.locks.values()):
            with self.world.ordering(kind, subject=subject):
                concerned = [client for client in clients if client.subject == subject]
                if self.rng.random() < 0.5:
                    options = ["--reconnect"] if kind == "reconnect" else ["--refuse-for", "2s"] if ban else []
                    status, _, error = await node.ctl("disconnect", "--subject", subject, *options)
                    # 5: another node did not answer in two seconds, as on a busy machine; the order may still be done there.
                    done, expected = status == 0, status in (0, 6) or self.world.clustered and status == 5
                else:
                    request = {"subject": subject}
                    request |= {"reconnect": True} if kind == "reconnect" else {"refuse_for": "2s"} if ban else {}
                    # The server closes connections that idle as long as this one may.
                    self.backend.close()
                    status, error = await self.backend.request("POST", "/api/disconnect", request)
                    done, expected = status == 200, status == 200 or status is None
                everywhere = not self.world.order("nats")
                if not expected and everywhere:
                    self.model.fail(f"disconnecting {subject} at {node.name} failed with {status}: {error}")
                self.counts["disconnects"] += 1
                if done and everywhere:
                    await self.obeyed(concerned, lambda client: True, f"{subject} was disconnected")


class AllOf:
    """Holds several locks."""

    def __init__(self, locks):
        self.locks = list(locks)

    async def __aenter__(self):
        for lock in self.locks:
            await lock.acquire()

    async def __aexit__(self, *_):
        for lock in self.locks:
            lock.release()
