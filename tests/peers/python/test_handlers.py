"""Handlers and iterations of the client of packaging/python: coroutines, exceptions, slow ones, and how they end."""

import asyncio
from unittest import mock

from support import Box, ClientTest

from philote_client import _handlers


class Handlers(ClientTest):
    async def test_an_exception_in_a_handler_loses_no_message_and_is_reported(self):
        client, connection = await self.both()

        async def fails(value, message):
            raise KeyError(value)

        client.on("chat", lambda *_: 1 / 0)
        client.on("chat", fails)
        client.on("chat", lambda value, _: client.values.put((f"again {value}", None)))
        for n in "12":
            await connection.say(n)
            self.assertEqual([await self.next_value(client), await self.next_value(client)], [int(n), f"again {n}"])
        told = [await self.mistakes.next() for _ in range(4)]
        self.assertEqual({one["message"] for one in told}, {'philote_client: an exception in the handler of channel "chat"'})
        kinds = sorted(type(one["exception"]).__name__ for one in told)
        self.assertEqual(kinds, ["KeyError", "KeyError", "ZeroDivisionError", "ZeroDivisionError"])

    async def test_a_coroutine_handler_gets_one_message_at_a_time_in_order_and_may_publish(self):
        client, connection = await self.both()
        running, seen = [], Box()

        async def echo(value, message):
            running.append(value)
            self.assertEqual(len(running), 1)
            readers = await client.publish("chat", value)
            running.remove(value)
            seen.put((value, readers))

        client.on("chat", echo)
        for n in range(5):
            await connection.say(str(n))
        for n in range(5):
            frame = await connection.next()
            self.assertEqual(frame["data"], str(n))
            await connection.send({"ack": frame["ack"], "readers": n})
        self.assertEqual([await seen.next() for _ in range(5)], [(n, n) for n in range(5)])
        self.assertEqual(len([await client.values.next() for _ in range(5)]), 5, "others do not wait for it")

    async def test_a_slow_handler_skips_what_does_not_fit_and_only_then_may_have_missed_something(self):
        client, connection = await self.both(backlog=3)
        gate, seen, last = asyncio.Event(), [], Box()

        async def slow(value, message):
            await gate.wait()
            seen.append(value)
            last.put(value)

        client.on("chat", slow)
        for n in range(10):
            await connection.say(str(n))
            await client.values.next()
        self.assertEqual(client.recovered, [])
        # State that is loaded now contains what was skipped, and what comes next is not skipped.
        loaded = Box()
        client.when("recovered", lambda one: loaded.put(list(seen)))
        gate.set()
        self.assertEqual(await loaded.next(), [0, 1, 2, 3])
        self.assertEqual(client.recovered, [("chat", False)])
        error = await client.errors.next()
        self.assertEqual((error.error, error.channel), ("too_slow", "chat"))
        await connection.say("10")
        await last.until(lambda value: value == 10)
        self.assertEqual(seen, [0, 1, 2, 3, 10])
        self.assertEqual(client.state.state, "open")

    async def test_the_backlog_is_bounded_in_size_too_and_one_message_of_any_size_fits(self):
        with mock.patch.object(_handlers, "BACKLOG_SIZE", 1000):
            client, connection = await self.both()
            gate, seen = asyncio.Event(), []

            async def slow(value, message):
                await gate.wait()
                seen.append(len(message.data))

            client.on("chat", slow)
            for size in [5000, 5000, 10, 5000]:
                await connection.say("x" * size)
                await client.values.next()
            gate.set()
            await client.errors.next()
            self.assertEqual(seen, [5000, 5000])

    async def test_a_slow_handler_of_an_event_is_reported_too(self):
        client, connection = await self.both(backlog=1)
        gate = asyncio.Event()
        client.when("message", lambda _: gate.wait())
        client.when("access", lambda _: gate.wait())
        for n in range(4):
            await connection.say(str(n), channel=f"channel {n}")
            await connection.access()
        await connection.say("1")
        await client.values.next()
        gate.set()
        codes = {(await client.errors.next()).message.split(" fell")[0] for _ in range(2)}
        self.assertEqual(codes, {'the handler of the event "message"', 'the handler of the event "access"'})
        self.assertEqual(client.recovered, [("channel 2", False), ("channel 3", False), ("chat", False)])

    async def test_a_slow_handler_of_presence_is_told_everything_anew(self):
        rooms = {"read": ["chat"]}
        client, connection = await self.both(rooms, backlog=1)
        gate, seen = asyncio.Event(), Box()

        async def slow(presence):
            seen.put(presence)
            await gate.wait()

        client.presence("chat", slow)
        await connection.next()
        await connection.send({"presence": {"channel": "chat", "subjects": {"ann": 1}, "count": 1, "anonymous": 0}})
        for name in ["bob", "cy", "dan"]:
            await connection.send({"presence": {"channel": "chat", "joined": [name], "left": [], "count": 2}})
        await connection.say("1")
        await client.values.next()
        gate.set()
        told = [await seen.next() for _ in range(3)]
        self.assertEqual([(list(one.subjects), one.joined) for one in told], [
            (["ann"], []), (["ann", "bob"], ["bob"]), (["ann", "bob", "cy", "dan"], []),
        ])  # fmt: skip

    async def test_a_handler_that_adds_handlers_is_not_called_endlessly_and_a_removed_one_is_not_called(self):
        client, connection = await self.both()
        added = []
        end = client.on("chat", lambda *_: self.fail("a removed handler was called"))

        def again(value, message):
            added.append(1)
            client.on("chat", lambda *_: added.append(1000))

        client.on("chat", again)
        end()
        await connection.say("1")
        await client.values.next()
        self.assertEqual(added, [1])

    async def test_a_removed_coroutine_handler_ends_what_it_does_and_gets_nothing_more(self):
        client, connection = await self.both()
        gate, seen, ended = asyncio.Event(), Box(), Box()

        async def once(value, message):
            end()
            seen.put(value)
            await gate.wait()
            ended.put(value)

        end = client.on("chat", once)
        await connection.say("1")
        await connection.say("2")
        await client.values.next()
        await client.values.next()
        gate.set()
        self.assertEqual(await ended.next(), 1)
        await connection.say("3")
        await client.values.next()
        self.assertTrue((await seen.next()) == 1 and seen.empty())

    async def test_closing_lets_running_handlers_end_and_cancels_those_that_take_too_long(self):
        with mock.patch("philote_client._core.FINISHING", 0.2):
            client, connection = await self.both()
            ended, cancelled = [], []

            async def ends(value, message):
                await asyncio.sleep(0.01)
                ended.append(value)

            async def never(value, message):
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.append(value)
                    raise

            client.on("chat", ends)
            client.on("chat", never)
            for n in range(3):
                await connection.say(str(n))
                await client.values.next()
            await client.__aexit__(None, None, None)
            self.assertEqual((ended, cancelled), ([0, 1, 2], [0]))


class Iterations(ClientTest):
    async def test_an_iteration_gets_each_message_once_and_ends_with_the_loop(self):
        client, connection = await self.both()
        seen = []
        await connection.say("0")
        messages = client.messages("chat")
        await client.values.next()
        for n in range(1, 6):
            await connection.say(str(n))
        async for message in messages:
            seen.append(message.value)
            if message.value == 5:
                break
        self.assertEqual(seen[-5:], [1, 2, 3, 4, 5])
        self.assertEqual(len(client._core.channels.handlers.get("chat")), 2)
        del messages
        self.assertEqual(len(client._core.channels.handlers.get("chat")), 1, "what nobody holds is removed")

    async def test_a_cancelled_wait_loses_no_message(self):
        client, connection = await self.both()
        messages = client.messages("chat")
        for n in range(20):
            waits = asyncio.ensure_future(messages.__anext__())
            await asyncio.sleep(0)
            await connection.say(str(n))
            await client.values.next()
            waits.cancel()
            try:
                self.assertEqual((await waits).value, n)
            except asyncio.CancelledError:
                self.assertEqual((await messages.__anext__()).value, n)

    async def test_several_iterations_over_one_object_share_its_messages(self):
        client, connection = await self.both()
        messages, seen = client.messages("chat"), Box()

        async def take():
            async for message in messages:
                seen.put(message.value)

        tasks = [asyncio.ensure_future(take()) for _ in range(3)]
        for n in range(10):
            await connection.say(str(n))
        self.assertEqual(sorted([await seen.next() for _ in range(10)]), list(range(10)))
        messages.close()
        await asyncio.gather(*tasks)

    async def test_an_iteration_that_falls_behind_fails_after_what_it_has(self):
        client, connection = await self.both(backlog=3)
        messages = client.messages("chat")
        for n in range(5):
            await connection.say(str(n))
            await client.values.next()
        self.assertEqual([(await messages.__anext__()).value for _ in range(3)], [0, 1, 2])
        self.assertEqual(await self.code_of(messages.__anext__()), "too_slow")
        self.assertEqual(client.state.state, "open", "others are not affected")

    async def test_an_iteration_joins_and_leaves_its_channel(self):
        client, connection = await self.both({"may": {"read": ["room:*"], "write": []}})
        messages = client.messages("room:1")
        self.assertEqual((await connection.next())["join"], ["room:1"])
        await connection.send({"joined": {"room:1": {}}})
        await connection.say("1", channel="room:1")
        async for message in messages:
            break
        del messages
        self.assertEqual(await connection.next(), {"leave": ["room:1"]})


class Bursts(ClientTest):
    async def test_a_burst_is_not_too_much_for_a_handler_or_an_iteration_that_is_fast(self):
        client, connection = await self.both(backlog=10)
        seen, last = [], Box()

        async def fast(value, message):
            seen.append(value)
            if value == 4999:
                last.put(value)

        async def iterate(count):
            return [(await messages.__anext__()).value for _ in range(count)]

        client.on("chat", fast)
        messages = client.messages("chat")
        iterating = asyncio.ensure_future(iterate(5000))
        # In one piece, so that the client finds them all at once.
        for n in range(5000):
            text = f'{{"issuer":"other","channel":"chat","data":"{n}"}}'.encode()
            connection.socket.transport.write(bytes([0x81, len(text)]) + text)
        await last.next()
        self.assertEqual((seen, await iterating), (list(range(5000)), list(range(5000))))
