"""The client of packaging/python joins and leaves channels, and tells who is there, against a server that a test scripts."""

from support import Box, ClientTest

ROOMS = {"read": ["chat"], "may": {"read": ["room:*", "dm:17"], "write": []}}


class Rooms(ClientTest):
    async def test_a_handler_joins_the_channel_and_the_last_one_leaves_it(self):
        client, connection = await self.both(ROOMS)
        values = Box()
        put = lambda value, _: values.put(value)  # noqa: E731
        ends = [client.on("room:1", put), client.on("room:1", lambda *_: None), client.on("dm:17", lambda *_: None)]
        self.assertEqual(await connection.next(), {"join": ["room:1", "dm:17"], "since": {}})
        await connection.send({"joined": {"dm:17": {}, "room:1": {}}})
        await connection.say("1", channel="room:1")
        self.assertEqual(await values.next(), 1)
        ends[0]()
        ends[2]()
        self.assertEqual(await connection.next(), {"leave": ["dm:17"]})
        ends[1]()
        await connection.send({"left": ["dm:17"]})
        self.assertEqual(await connection.next(), {"leave": ["room:1"]})
        # What is wanted again while it is being left is joined again.
        client.on("room:1", put)
        await connection.send({"left": ["room:1"]})
        self.assertEqual(await connection.next(), {"join": ["room:1"], "since": {}})

    async def test_join_resolves_or_is_rejected_without_an_effect_on_the_others(self):
        client, connection = await self.both(ROOMS)
        joins = [client.join(channel) for channel in ["room:1", "room:2", "secret", "chat"]]
        self.assertEqual((await connection.next())["join"], ["room:1", "room:2"])
        self.assertEqual(await self.code_of(joins[2]), "forbidden")
        await joins[3]
        await connection.send({"error": "forbidden", "channel": "room:2", "message": "too many"})
        self.assertEqual(await self.code_of(joins[1]), "forbidden")
        self.assertEqual((await connection.next())["join"], ["room:1"])
        await connection.send({"joined": {"room:1": {}}})
        await joins[0]
        await client.join("room:1")
        client.leave("room:1")
        self.assertEqual(await connection.next(), {"leave": ["room:1"]})
        self.assertEqual([(await client.errors.next()).channel for _ in range(2)], ["secret", "room:2"])
        left = client.join("room:3")
        client.leave("room:3")
        self.assertEqual(await self.code_of(left), "left")
        left = client.join("room:4")
        left.cancel()
        client.close()
        self.assertEqual(await self.code_of(client.join("room:3")), "closed")

    async def test_a_name_that_the_server_refuses_does_not_keep_others_out(self):
        client, connection = await self.both(ROOMS)
        joins = [client.join(channel) for channel in ["room:1", "room:\n", "room:2"]]
        self.assertEqual(len((await connection.next())["join"]), 3)
        await connection.send({"error": "bad_message", "message": "no control characters"})
        for name in ["room:1", "room:\n", "room:2"]:
            self.assertEqual((await connection.next())["join"], [name])
            if name == "room:\n":
                await connection.send({"error": "bad_message", "message": "no control characters"})
            else:
                await connection.send({"joined": {name: {}}})
        await joins[0]
        await joins[2]
        self.assertEqual(await self.code_of(joins[1]), "forbidden")

    async def test_a_request_that_was_too_fast_is_sent_again(self):
        client, connection = await self.both(ROOMS)
        joined = client.join("room:1")
        await connection.next()
        await connection.send({"error": "rate_limited", "message": "too fast"})
        self.assertEqual((await connection.next())["join"], ["room:1"])
        await connection.send({"joined": {"room:1": {}}})
        await joined

    async def test_joined_channels_are_taken_up_again_after_a_reconnection(self):
        client, connection = await self.both({**ROOMS, "ids": {"chat": "e-0"}})
        client.on("room:1", lambda *_: None)
        end = client.on("room:2", lambda *_: None)
        client.join("room:3")
        await connection.next()
        await connection.send({"joined": {"room:1": {"id": "e-4"}, "room:2": {"id": "e-7"}, "room:3": {}}})
        await connection.say("5", channel="room:1", id="e-5")
        await connection.say("1", id="e-1")
        await client.values.next()
        connection.terminate()
        await client.reached("waiting")
        end()
        second = await self.connections.next()
        # The token may now read a channel that was joined.
        since = {"chat": "e-1", "room:1": "e-5", "room:2": "e-7", "room:3": None}
        self.assertEqual(await second.next(), {"auth": "a token", "since": since})
        await second.access(**ROOMS, recovered={"chat": True}, ids={"chat": "e-1"})
        await client.reached("open")
        join = {"join": ["room:1", "room:3"], "since": {"room:1": "e-5", "room:3": None}}
        self.assertEqual(await second.next(), join)
        await second.send({"joined": {"room:1": {"id": "e-5", "recovered": True}, "room:3": {}}})
        # Its own message on the first connection, which the history delivers.
        await second.say("6", channel="room:1", id="e-6", issuer=connection.id)
        await second.say("2", id="e-2")
        await client.values.next()
        self.assertEqual(client.recovered, [("chat", True), ("room:1", True), ("room:3", False)])
        second.terminate()
        self.assertEqual((await (await self.connections.next()).next())["since"]["room:1"], "e-6")

    async def test_a_channel_moves_between_read_and_may_without_a_gap_and_one_not_allowed_any_more_is_reported(self):
        access = {"read": ["chat", "room:1"], "may": {"read": ["room:*"], "write": []}, "ids": {"room:1": "e-1"}}
        client, connection = await self.both(access)
        client.on("room:1", lambda *_: None)
        client.on("room:2", lambda *_: None)
        self.assertEqual((await connection.next())["join"], ["room:2"])
        await connection.send({"joined": {"room:2": {"id": "e-9"}}})
        client.refresh()
        await connection.next()
        await connection.access(read=["chat"], may={"read": ["room:1"], "write": []})
        await connection.send({"left": ["room:2"]})
        self.assertEqual(await connection.next(), {"join": ["room:1"], "since": {"room:1": "e-1"}})
        self.assertEqual((await client.errors.next()).channel, "room:2")

    async def test_with_history_each_new_handler_of_a_joined_channel_first_gets_what_the_server_keeps(self):
        client, connection = await self.both({**ROOMS, "max_message_size": 65536}, history=True)
        first, second = Box(), Box()
        client.on("room:1", lambda value, _: first.put(value))
        self.assertEqual(await connection.next(), {"join": ["room:1"], "since": {"room:1": None}})
        await connection.send({"joined": {"room:1": {"id": "e-3"}}})
        await connection.say("4", channel="room:1", id="e-4")
        self.assertEqual(await first.next(), 4)
        client.on("room:1", lambda value, _: second.put(value))
        self.assertEqual(await connection.next(), {"join": ["room:1"], "since": {"room:1": None}})
        await connection.send({"joined": {"room:1": {"id": "e-3"}}})
        await connection.say("4", channel="room:1", id="e-4")
        await connection.say("5", channel="room:1", id="e-5")
        self.assertEqual([await second.next(), await second.next(), await first.next()], [4, 5, 5])

    async def test_a_request_is_never_larger_than_the_server_accepts(self):
        client, connection = await self.both({**ROOMS, "max_message_size": 1024})
        names = [f"room:{n}-" + "é" * 90 for n in range(20)]
        joins, asked = [client.join(name) for name in names], []
        while len(asked) < 20:
            frame = await connection.next()
            self.assertLessEqual(len(str(frame).encode()), 1024)
            asked += frame["join"]
            await connection.send({"joined": {name: {} for name in frame["join"]}})
        for join in joins:
            await join
        self.assertEqual(asked, names)


class Presence(ClientTest):
    async def test_presence_follows_a_channel_and_again_after_a_reconnection_and_another_token(self):
        client, connection = await self.both(ROOMS)
        seen = Box()
        end = client.presence("room:1", seen.put)
        self.assertEqual((await connection.next())["join"], ["room:1"])
        await connection.send({"joined": {"room:1": {}}})
        self.assertEqual(await connection.next(), {"presence": ["room:1"], "follow": True})
        info = {"ann": {"name": "Ann"}}
        tell = {"channel": "room:1", "subjects": {"ann": 1}, "info": info, "count": 1, "anonymous": 2}
        await connection.send({"presence": tell})
        told = await seen.next()
        self.assertEqual((told.subjects, told.joined, told.left, told.count, told.anonymous), (info, [], [], 1, 2))
        await connection.send({"presence": {"channel": "room:1", "joined": ["bob"], "left": ["ann"], "count": 1}})
        told = await seen.next()
        self.assertEqual(
            (told.subjects, told.joined, told.left, told.count, told.anonymous), ({"bob": None}, ["bob"], ["ann"], 1, 2)
        )
        await connection.send({"presence": {"channel": "room:1", "count": 201, "anonymous": 3}})
        told = await seen.next()
        self.assertEqual((told.subjects, told.count, told.anonymous), (None, 201, 3))
        connection.terminate()
        await client.reached("waiting")
        second = await self.connections.next()
        await second.next()
        await second.access(**ROOMS)
        self.assertEqual((await second.next())["join"], ["room:1"])
        await second.send({"joined": {"room:1": {}}})
        cy = {"presence": {"channel": "room:1", "subjects": {"cy": 1}, "count": 1, "anonymous": 0}}
        self.assertEqual(await second.next(), {"presence": ["room:1"], "follow": True})
        await second.send(cy)
        self.assertEqual((await seen.next()).subjects, {"cy": None})
        client.refresh()
        await second.next()
        await second.access(**ROOMS)
        self.assertEqual(await second.next(), {"presence": ["room:1"], "follow": True})
        await second.send(cy)
        await seen.next()
        late = Box()
        end_late = client.presence("room:1", late.put)
        self.assertEqual((await late.next()).count, 1, "a second handler is told at once")
        end()
        end_late()
        self.assertEqual(await second.next(), {"leave": ["room:1"]})

    async def test_presence_without_the_claim_is_reported_and_others_go_on(self):
        client, connection = await self.both(ROOMS)
        seen = Box()
        client.presence("chat", seen.put)
        client.presence("room:1", seen.put)
        await connection.next()
        await connection.send({"joined": {"room:1": {}}})
        self.assertEqual((await connection.next())["presence"], ["chat", "room:1"])
        await connection.send({"error": "forbidden", "channel": "chat", "message": "this token may not see who reads it"})
        self.assertEqual(await connection.next(), {"presence": ["room:1"], "follow": True})
        await connection.send({"presence": {"channel": "room:1", "subjects": {}, "count": 0, "anonymous": 1}})
        self.assertEqual((await seen.next()).channel, "room:1")
        error = await client.errors.next()
        self.assertEqual((error.error, error.channel), ("forbidden", "chat"))

    async def test_a_request_for_presence_that_waits_for_the_rate_is_sent(self):
        access = {**ROOMS, "max_message_size": 65536, "messages_per_second": 2}
        client, connection = await self.both(access)
        for n in range(4):
            client.publish("chat", n)
        client.presence("chat", lambda _: None)
        frames = []
        while True:
            frame = await connection.next()
            frames.append(frame)
            if "presence" in frame:
                break
            await connection.send({"ack": frame["ack"], "readers": 0})
        self.assertEqual(frame, {"presence": ["chat"], "follow": True})
