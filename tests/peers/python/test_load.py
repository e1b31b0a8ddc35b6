"""``load`` of packaging/python: a handler follows a state that it loads, against a server that the tests script."""

import asyncio
from unittest import mock

from support import Box, ClientTest

from philote_client import _load

ROOMS = {"may": {"read": ["room:*"], "write": []}}


class Follow:
    """A handler that follows a state: its calls of ``load`` arrive in ``next``, and what it gets in ``values``."""

    def __init__(self, client, channel="chat"):
        self.calls, self.values, self.count = Box(), Box(), 0
        self.next = self.calls.next
        self.end = client.on(channel, lambda value, _: self.values.put(value), load=self.load)

    async def load(self):
        self.count += 1
        answer = asyncio.get_running_loop().create_future()
        self.calls.put(answer)
        return await answer

    async def take(self, count):
        return [await self.values.next() for _ in range(count)]


class Load(ClientTest):
    async def start_tokens(self, **options):
        """A client whose tokens the test gives, so that it connects when the test wants it."""
        tokens = Box()
        return await self.start(token=tokens.next, **options), tokens

    async def settle(self, connection, client):
        """Waits until the client has handled what the server sent before."""
        publish = client.publish("chat", "?")
        await connection.send({"ack": (await connection.next())["ack"], "readers": 0})
        await publish
        await asyncio.sleep(0)

    async def says(self, connection, *numbers, **more):
        for n in numbers:
            await connection.say(str(n), id=f"e-{n}", **more)

    async def test_the_state_is_loaded_before_the_channel_is_joined_and_again_exactly_when_messages_are_missing(self):
        client, tokens = await self.start_tokens()
        one = Follow(client)
        (await one.next()).set_result("e-5")
        tokens.put("a token")
        connection = await self.connections.next()
        self.assertEqual(await connection.next(), {"auth": "a token", "since": {"chat": "e-5"}})
        await connection.access(ids={"chat": "e-5"}, recovered={"chat": True})
        await self.says(connection, 6)
        self.assertEqual(await one.take(1), [6])
        connection.terminate()
        tokens.put("a token")
        second = await self.connections.next()
        self.assertEqual((await second.next())["since"], {"chat": "e-6"})
        await second.access(ids={"chat": "e-6"}, recovered={"chat": True})
        await self.says(second, 7)
        self.assertEqual(await one.take(1), [7])
        self.assertEqual(one.count, 1)
        second.terminate()
        tokens.put("a token")
        third = await self.connections.next()
        self.assertEqual((await third.next())["since"], {"chat": "e-7"})
        await third.access(ids={"chat": "e-9"}, recovered={"chat": False})
        again = await one.next()
        await self.says(third, 10, 11, 12)
        await self.settle(third, client)
        again.set_result("e-11")
        await self.says(third, 13)
        self.assertEqual(await one.take(2), [12, 13], "what is in the state is not delivered, and what arrived meanwhile is")
        self.assertEqual((one.count, client.recovered), (2, [("chat", True), ("chat", False)]))

    async def test_a_state_from_before_the_channel_was_joined_is_loaded_again_if_messages_are_missing_between(self):
        for old in ["e-4", "other-9", 7]:
            client = await self.start()
            one = Follow(client)
            call = await one.next()
            connection = await self.connections.next()
            self.assertEqual(await connection.next(), {"auth": "a token"}, "the connection does not wait for the state")
            await connection.access(ids={"chat": "e-5"})
            await self.says(connection, 6, 7, 8)
            await self.settle(connection, client)
            call.set_result(old)
            (await one.next()).set_result("e-6")
            await self.says(connection, 9)
            self.assertEqual(await one.take(3), [7, 8, 9])
            self.assertEqual(one.count, 2)

    async def test_an_id_that_the_history_does_not_reach_is_loaded_again_and_then_not_in_a_hot_loop(self):
        client, tokens = await self.start_tokens(backoff=(0.04, 0.04))
        one = Follow(client)
        (await one.next()).set_result("old-1")
        tokens.put("a token")
        connection = await self.connections.next()
        self.assertEqual((await connection.next())["since"], {"chat": "old-1"})
        await connection.access(ids={"chat": "e-0"}, recovered={"chat": False})
        began = asyncio.get_running_loop().time()
        for _ in range(20):
            (await one.next()).set_result("old-1")
            error = await client.errors.next()
            self.assertEqual((error.error, error.channel), ("load", "chat"))
            self.assertIn("load() returned the id old-1, and messages are known after e-0", error.message)
        self.assertGreater(asyncio.get_running_loop().time() - began, 0.1, "the waits are random, and 20 ms on average")
        # A good answer ends it, after a message that arrived between two calls.
        await self.says(connection, 1)
        await self.settle(connection, client)
        (await one.next()).set_result("e-1")
        await self.settle(connection, client)
        await self.says(connection, 2)
        self.assertEqual(await one.take(1), [2])
        self.assertEqual(one.count, 22)

    async def test_a_load_that_fails_or_returns_no_id_is_told_and_tried_again(self):
        client, connection = await self.both({"ids": {"chat": "e-1"}})
        one = Follow(client)
        (await one.next()).set_exception(OSError("no backend"))
        error = await client.errors.next()
        self.assertEqual((error.error, error.channel, error.message), ("load", "chat", "load() failed: no backend"))
        (await one.next()).set_result(None)
        self.assertIn("returned no id", (await client.errors.next()).message)
        failing = await one.next()
        await self.says(connection, 2)
        await self.settle(connection, client)
        failing.set_exception(OSError("no backend"))
        await client.errors.next()
        (await one.next()).set_result("e-1")
        self.assertRegex((await client.errors.next()).message, "the id e-1, .* after e-2")
        call = await one.next()
        await self.says(connection, 3)
        await self.settle(connection, client)
        call.set_result("e-2")
        self.assertEqual(await one.take(1), [3])
        client.on("chat", lambda *_: None, load=lambda: {}["x"])
        self.assertEqual((await client.errors.next()).message, "load() failed: 'x'")

    async def test_a_load_that_does_not_answer_is_given_up(self):
        with mock.patch.object(_load, "PATIENCE", 0.05):
            client, connection = await self.both({"ids": {"chat": "e-1"}})
            one = Follow(client)
            late = await one.next()
            self.assertEqual((await client.errors.next()).message, "load() did not answer within 0.05 s")
            call = await one.next()
            self.assertTrue(late.cancelled())
            await self.says(connection, 2)
            await self.settle(connection, client)
            call.set_result("e-2")
            await self.settle(connection, client)
            await self.says(connection, 3)
            self.assertEqual(await one.take(1), [3])

    async def test_at_most_so_much_is_held_while_the_state_is_loaded_with_more_it_is_loaded_again(self):
        for name, limit, text in [("HELD", 5, "1"), ("HELD_LENGTH", 100, '"' + "x" * 18 + '"')]:
            with mock.patch.object(_load, name, limit):
                client, connection = await self.both({"ids": {"chat": "e-0"}})
                one = Follow(client)
                call = await one.next()
                for n in range(1, 6):
                    await connection.say(text, id=f"e-{n}")
                await self.settle(connection, client)
                call.set_result("e-0")
                await one.take(5)
                other = Follow(client)
                call = await other.next()
                for n in range(6, 12):
                    await connection.say(text, id=f"e-{n}")
                self.assertIn("too many messages arrived", (await client.errors.next()).message)
                self.assertTrue(call.cancelled() or call.cancel())
                (await other.next()).set_result("e-11")
                await self.settle(connection, client)
                await connection.say('"next"', id="e-12")
                self.assertEqual(await other.take(1), ["next"])

    async def test_a_room_is_joined_when_its_state_is_loaded_with_the_id_of_the_state(self):
        client, connection = await self.both(ROOMS)
        one = Follow(client, "room:1")
        (await one.next()).set_exception(OSError("not yet"))
        self.assertEqual((await client.errors.next()).channel, "room:1")
        call = await one.next()
        await self.settle(connection, client)
        call.set_result("e-3")
        self.assertEqual(await connection.next(), {"join": ["room:1"], "since": {"room:1": "e-3"}})
        await connection.send({"joined": {"room:1": {"id": "e-3", "recovered": True}}})
        await self.says(connection, 4, channel="room:1")
        self.assertEqual(await one.take(1), [4])
        # A token that does not allow it has it left. It is joined again with a new state.
        client.refresh()
        await connection.next()
        await connection.send({"left": ["room:1"]})
        await connection.access(may={"read": [], "write": []})
        self.assertEqual((await client.errors.next()).error, "forbidden")
        client.refresh()
        await connection.next()
        await connection.access(**ROOMS)
        self.assertEqual(await connection.next(), {"join": ["room:1"], "since": {}})
        await connection.send({"joined": {"room:1": {"id": "e-8"}}})
        (await one.next()).set_result("e-8")
        await self.settle(connection, client)
        await self.says(connection, 9, channel="room:1")
        self.assertEqual(await one.take(1), [9])
        connection.terminate()
        second = await self.connections.next()
        await second.next()
        await second.access(**ROOMS)
        self.assertEqual(await second.next(), {"join": ["room:1"], "since": {"room:1": "e-9"}})
        await second.send({"joined": {"room:1": {"id": "e-9", "recovered": True}}})
        await self.says(second, 10, channel="room:1")
        self.assertEqual(await one.take(1), [10])
        self.assertEqual(one.count, 3)
        one.end()
        self.assertEqual(await second.next(), {"leave": ["room:1"]})

    async def test_two_states_of_a_channel_are_followed_each_from_its_id_also_beside_the_history(self):
        client, tokens = await self.start_tokens()
        one, other = Follow(client), Follow(client)
        (await one.next()).set_result("e-5")
        (await other.next()).set_result("e-3")
        tokens.put("a token")
        connection = await self.connections.next()
        self.assertEqual((await connection.next())["since"], {"chat": "e-3"})
        await connection.access(ids={"chat": "e-3"}, recovered={"chat": True})
        await self.says(connection, 4, 5, 6)
        self.assertEqual((await other.take(3), await one.take(1)), ([4, 5, 6], [6]))
        chatting, tokens = await self.start_tokens(history=True)
        state = Follow(chatting)
        (await state.next()).set_result("e-5")
        tokens.put("a token")
        second = await self.connections.next()
        self.assertEqual((await second.next())["since"], {"chat": None})
        await second.access(ids={"chat": "e-4"})
        await self.says(second, 5, 6, 7)
        self.assertEqual([await self.next_value(chatting) for _ in range(3)], [5, 6, 7])
        self.assertEqual(await state.take(2), [6, 7])

    async def test_a_handler_that_is_removed_while_its_state_is_loaded_or_while_it_gets_what_was_held_gets_nothing(self):
        client, connection = await self.both({"ids": {"chat": "e-0"}})
        gone = Follow(client)
        call = await gone.next()
        gone.end()
        await asyncio.sleep(0)
        self.assertTrue(call.cancelled())
        early = Follow(client)
        early.end()
        got, calls = [], Box()

        def load():
            answer = asyncio.get_running_loop().create_future()
            calls.put(answer)
            return answer

        def take(value, message):
            got.append(value)
            end()

        end = client.on("chat", take, load=load)
        running = await calls.next()
        await self.says(connection, 1, 2)
        await self.settle(connection, client)
        running.set_result("e-0")
        await self.says(connection, 3)
        await client.values.until(lambda one: one[0] == 3)
        self.assertEqual((got, early.count, gone.count), ([1], 0, 1))
        client.close()
        closed = Follow(client)
        await asyncio.sleep(0)
        self.assertEqual(closed.count, 0)

    async def test_without_a_history_the_state_is_loaded_after_the_channel_was_joined_each_time(self):
        client, tokens = await self.start_tokens()
        one = Follow(client)
        (await one.next()).set_result(None)
        tokens.put("a token")
        connection = await self.connections.next()
        await connection.next()
        await connection.access()
        call = await one.next()
        await connection.say("1")
        await self.settle(connection, client)
        call.set_result(None)
        self.assertEqual(await one.take(1), [1])
        connection.terminate()
        tokens.put("a token")
        second = await self.connections.next()
        await second.next()
        await second.access(recovered={"chat": False})
        (await one.next()).set_result(None)
        await self.settle(second, client)
        await second.say("2")
        self.assertEqual(await one.take(1), [2])
        self.assertEqual(one.count, 3)

    async def test_a_slow_handler_has_its_state_loaded_again_when_it_can_get_more(self):
        client, connection = await self.both({"ids": {"chat": "e-0"}}, backlog=2)
        gate, got, calls = asyncio.Event(), Box(), Box()

        async def apply(value, message):
            got.put(value)
            await gate.wait()

        def load():
            answer = asyncio.get_running_loop().create_future()
            calls.put(answer)
            return answer

        client.on("chat", apply, load=load)
        (await calls.next()).set_result("e-0")
        await self.settle(connection, client)
        await self.says(connection, *range(1, 10))
        await self.settle(connection, client)
        self.assertTrue(calls.empty())
        gate.set()
        call = await calls.next()
        await self.says(connection, 10, 11)
        await self.settle(connection, client)
        call.set_result("e-10")
        self.assertEqual([await got.next() for _ in range(4)], [1, 2, 3, 11])
        self.assertEqual(client.recovered, [("chat", False)])
