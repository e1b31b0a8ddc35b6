// The client of packaging/npm joins and leaves channels: against a server that a test scripts, and against the daemon.

import assert from "node:assert/strict";
import test from "node:test";
import WebSocket from "ws";
import { Philote } from "../../packaging/npm/philote.js";
import { DEADLINE, Inbox, startBoth } from "./fake_server.mjs";
import { publish, sign, startPhilote } from "./philote.mjs";
import { startProxy } from "./proxy.mjs";

const ROOMS = { read: ["chat"], may: { read: ["room:*", "dm:17"], write: [] } };

test("a handler joins the channel, and the last one leaves it", DEADLINE, async (t) => {
  const { client, connection } = await startBoth(t, {}, ROOMS);
  const values = new Inbox();
  const ends = [client.on("room:1", values.put), client.on("room:1", () => {}), client.on("dm:17", () => {})];
  assert.deepEqual(await connection.next(), { join: ["room:1", "dm:17"], since: {} });
  connection.send({ joined: { "dm:17": {}, "room:1": {} } });
  connection.say("1", { channel: "room:1" });
  assert.equal(await values.next(), 1);
  ends[0]();
  ends[2]();
  assert.deepEqual(await connection.next(), { leave: ["dm:17"] });
  ends[1]();
  connection.send({ left: ["dm:17"] });
  assert.deepEqual(await connection.next(), { leave: ["room:1"] });
  // What is wanted again while it is being left is joined again.
  client.on("room:1", values.put);
  connection.send({ left: ["room:1"] });
  assert.deepEqual(await connection.next(), { join: ["room:1"], since: {} });
});

test("join resolves, or is rejected without an effect on the others", DEADLINE, async (t) => {
  const { client, connection, heard } = await startBoth(t, {}, ROOMS);
  const joins = ["room:1", "room:2", "secret", "chat"].map((channel) => client.join(channel));
  assert.deepEqual((await connection.next()).join, ["room:1", "room:2"]);
  await assert.rejects(joins[2], { code: "forbidden" });
  await joins[3];
  connection.send({ error: "forbidden", channel: "room:2", message: "too many" });
  await assert.rejects(joins[1], { code: "forbidden", message: "too many" });
  assert.deepEqual((await connection.next()).join, ["room:1"]);
  connection.send({ joined: { "room:1": {} } });
  await joins[0];
  await client.join("room:1");
  client.leave("room:1");
  assert.deepEqual(await connection.next(), { leave: ["room:1"] });
  assert.deepEqual([(await heard.errors.next()).channel, (await heard.errors.next()).channel], ["secret", "room:2"]);
  const left = client.join("room:3");
  client.leave("room:3");
  await assert.rejects(left, { code: "left" });
  client.close();
  await assert.rejects(client.join("room:3"), { code: "closed" });
});

test("a name that the server refuses does not keep others out", DEADLINE, async (t) => {
  const { client, connection } = await startBoth(t, {}, ROOMS);
  const joins = ["room:1", "room:\n", "room:2"].map((channel) => client.join(channel));
  const invalid = () => connection.send({ error: "bad_message", message: "no control characters" });
  assert.equal((await connection.next()).join.length, 3);
  invalid();
  for (const name of ["room:1", "room:\n", "room:2"]) {
    assert.deepEqual((await connection.next()).join, [name]);
    if (name === "room:\n") invalid();
    else connection.send({ joined: { [name]: {} } });
  }
  await joins[0];
  await joins[2];
  await assert.rejects(joins[1], { code: "forbidden", message: "no control characters" });
});

test("a request that was too fast is sent again", DEADLINE, async (t) => {
  const { client, connection } = await startBoth(t, {}, ROOMS);
  const joined = client.join("room:1");
  await connection.next();
  connection.send({ error: "rate_limited", message: "too fast" });
  assert.deepEqual((await connection.next()).join, ["room:1"]);
  connection.send({ joined: { "room:1": {} } });
  await joined;
});

test("a request for presence that waits for the rate is sent", DEADLINE, async (t) => {
  const { client, connection } = await startBoth(t, {}, { ...ROOMS, messages_per_second: 2 });
  for (const n of [0, 1, 2, 3]) client.publish("chat", n).catch(() => {});
  client.presence("chat", () => {});
  let frame = await connection.next();
  for (; frame.ack; frame = await connection.next()) connection.send({ ack: frame.ack, readers: 0 });
  assert.deepEqual(frame, { presence: ["chat"], follow: true });
});

test("joined channels are taken up again after a reconnection", DEADLINE, async (t) => {
  const { client, connection, server, heard, reached } = await startBoth(t, {}, { ...ROOMS, ids: { chat: "e-0" } });
  client.on("room:1", () => {});
  const end = client.on("room:2", () => {});
  client.join("room:3");
  await connection.next();
  connection.send({ joined: { "room:1": { id: "e-4" }, "room:2": { id: "e-7" }, "room:3": {} } });
  connection.say("5", { channel: "room:1", id: "e-5" });
  connection.say("1", { id: "e-1" });
  await heard.values.next();
  connection.socket.terminate();
  await reached("waiting");
  end();
  const second = await server.next();
  // The token may now read a channel that was joined.
  assert.deepEqual(await second.next(), {
    auth: "a token", since: { chat: "e-1", "room:1": "e-5", "room:2": "e-7", "room:3": null },
  });
  second.access({ ...ROOMS, recovered: { chat: true }, ids: { chat: "e-1" } });
  await reached("open");
  assert.deepEqual(await second.next(), { join: ["room:1", "room:3"], since: { "room:1": "e-5", "room:3": null } });
  second.send({ joined: { "room:1": { id: "e-5", recovered: true }, "room:3": {} } });
  // Its own message on the first connection, which the history delivers.
  second.say("6", { channel: "room:1", id: "e-6", issuer: connection.id });
  second.say("2", { id: "e-2" });
  await heard.values.next();
  assert.deepEqual(heard.recovered, [
    { channel: "chat", recovered: true },
    { channel: "room:1", recovered: true },
    { channel: "room:3", recovered: false },
  ]);
  second.socket.terminate();
  const third = await server.next();
  assert.equal((await third.next()).since["room:1"], "e-6");
});

test("a channel moves between read and may without a gap, and one that is not allowed any more is reported", DEADLINE, async (t) => {
  const { client, connection, heard } = await startBoth(t, {}, { read: ["chat", "room:1"], may: { read: ["room:*"], write: [] }, ids: { "room:1": "e-1" } });
  client.on("room:1", () => {});
  client.on("room:2", () => {});
  assert.deepEqual((await connection.next()).join, ["room:2"]);
  connection.send({ joined: { "room:2": { id: "e-9" } } });
  client.refresh();
  await connection.next();
  connection.access({ read: ["chat"], may: { read: ["room:1"], write: [] } });
  connection.send({ left: ["room:2"] });
  assert.deepEqual(await connection.next(), { join: ["room:1"], since: { "room:1": "e-1" } });
  assert.equal((await heard.errors.next()).channel, "room:2");
});

test("with history, each new handler of a joined channel first gets what the server keeps", DEADLINE, async (t) => {
  const { client, connection } = await startBoth(t, { history: true }, { ...ROOMS, max_message_size: 65536 });
  const first = new Inbox();
  const second = new Inbox();
  client.on("room:1", first.put);
  assert.deepEqual(await connection.next(), { join: ["room:1"], since: { "room:1": null } });
  connection.send({ joined: { "room:1": { id: "e-3" } } });
  connection.say("4", { channel: "room:1", id: "e-4" });
  assert.equal(await first.next(), 4);
  client.on("room:1", second.put);
  assert.deepEqual(await connection.next(), { join: ["room:1"], since: { "room:1": null } });
  connection.send({ joined: { "room:1": { id: "e-3" } } });
  connection.say("4", { channel: "room:1", id: "e-4" });
  connection.say("5", { channel: "room:1", id: "e-5" });
  assert.deepEqual([await second.next(), await second.next(), await first.next()], [4, 5, 5]);
});

test("against the daemon: a thousand rooms, cuts, and a token that allows fewer", { timeout: 60_000 }, async (t) => {
  const philote = await startPhilote(t, { PHILOTE_HISTORY_MESSAGES: "100", PHILOTE_LIMITS_CHANNELS_PER_TOKEN: "1024" });
  const proxy = await startProxy(t, philote.address);
  let claims = { read: ["news"], may: { read: ["room:*"], write: ["room:*"] } };
  const client = new Philote(`ws://${proxy.address}/`, { token: () => sign(philote, claims), backoff: [1, 50], WebSocket });
  t.after(() => client.close());
  const states = new Inbox();
  client.when("state", ({ state }) => states.put(state));
  const errors = [];
  client.when("error", (error) => errors.push(error));
  const recovered = [];
  client.when("recovered", (one) => recovered.push(one));
  const rooms = Array.from({ length: 1000 }, (_, n) => `room:${n} with a name that makes the frames of all of them too large for one ${"x".repeat(120)}`);
  const values = new Inbox();
  const ends = rooms.map((room) => client.on(room, (value) => values.put(value)));
  await Promise.all(rooms.map((room) => client.join(room)));
  for (const room of [rooms[0], rooms[999]]) await publish(philote, room, JSON.stringify(room.length));
  assert.deepEqual([await values.next(), await values.next()], [rooms[0].length, rooms[999].length]);

  proxy.cut();
  await states.until((state) => state === "waiting");
  for (const room of [rooms[1], rooms[500]]) await publish(philote, room, "7");
  const again = new Promise((resolve) => {
    client.when("recovered", () => recovered.length === 1001 && resolve());
  });
  proxy.open();
  assert.deepEqual([await values.next(), await values.next()], [7, 7]);
  await again;
  assert(recovered.every(({ recovered }) => recovered));

  claims = { may: { read: ["room:1 *"], write: [] } };
  const denied = new Promise((resolve) => {
    client.when("error", () => errors.length === 999 && resolve());
  });
  for (const room of rooms) client.leave(room);
  client.refresh();
  await denied;
  assert(errors.every(({ error, channel }) => error === "forbidden" && channel !== rooms[1]));
  assert.equal((await publish(philote, rooms[1], "8")).readers, 1);
  assert.equal(await values.next(), 8);
  assert.equal((await publish(philote, rooms[2], "9")).readers, 0);
  ends[1]();
  let readers;
  while ((readers = (await publish(philote, rooms[1], "10")).readers)) await new Promise(setImmediate);
  assert.equal(readers, 0);
});

test("presence follows a channel, and again after a reconnection and another token", DEADLINE, async (t) => {
  const { client, connection, server, reached } = await startBoth(t, {}, ROOMS);
  const seen = new Inbox();
  const end = client.presence("room:1", (presence) => seen.put({ ...presence, subjects: presence.subjects && [...presence.subjects] }));
  assert.deepEqual((await connection.next()).join, ["room:1"]);
  connection.send({ joined: { "room:1": {} } });
  assert.deepEqual(await connection.next(), { presence: ["room:1"], follow: true });
  connection.send({ presence: { channel: "room:1", subjects: { ann: 1 }, info: { ann: { name: "Ann" } }, count: 1, anonymous: 2 } });
  assert.deepEqual(await seen.next(), {
    channel: "room:1", subjects: [["ann", { info: { name: "Ann" } }]], joined: [], left: [], count: 1, anonymous: 2,
  });
  connection.send({ presence: { channel: "room:1", joined: ["bob"], left: ["ann"], count: 1 } });
  assert.deepEqual(await seen.next(), { channel: "room:1", subjects: [["bob", {}]], joined: ["bob"], left: ["ann"], count: 1, anonymous: 2 });
  connection.send({ presence: { channel: "room:1", count: 201, anonymous: 3 } });
  assert.deepEqual(await seen.next(), { channel: "room:1", subjects: undefined, joined: [], left: [], count: 201, anonymous: 3 });

  connection.socket.terminate();
  await reached("waiting");
  const second = await server.next();
  await second.next();
  second.access(ROOMS);
  assert.deepEqual((await second.next()).join, ["room:1"]);
  second.send({ joined: { "room:1": {} } });
  assert.deepEqual(await second.next(), { presence: ["room:1"], follow: true });
  second.send({ presence: { channel: "room:1", subjects: { cy: 1 }, count: 1, anonymous: 0 } });
  assert.deepEqual((await seen.next()).subjects, [["cy", {}]]);
  client.refresh();
  await second.next();
  second.access(ROOMS);
  assert.deepEqual(await second.next(), { presence: ["room:1"], follow: true });
  second.send({ presence: { channel: "room:1", subjects: { cy: 1 }, count: 1, anonymous: 0 } });
  await seen.next();
  const late = new Inbox();
  const endLate = client.presence("room:1", late.put);
  assert.equal((await late.next()).count, 1, "a second handler is told at once");
  end();
  endLate();
  assert.deepEqual(await second.next(), { leave: ["room:1"] });
});

test("presence without the claim is reported, and others go on", DEADLINE, async (t) => {
  const { client, connection, heard } = await startBoth(t, {}, ROOMS);
  const seen = new Inbox();
  client.presence("chat", seen.put);
  client.presence("room:1", seen.put);
  await connection.next();
  connection.send({ joined: { "room:1": {} } });
  assert.deepEqual((await connection.next()).presence, ["chat", "room:1"]);
  connection.send({ error: "forbidden", channel: "chat", message: "this token may not see who reads it" });
  assert.deepEqual(await connection.next(), { presence: ["room:1"], follow: true });
  connection.send({ presence: { channel: "room:1", subjects: {}, count: 0, anonymous: 1 } });
  assert.equal((await seen.next()).channel, "room:1");
  const { error, channel } = await heard.errors.next();
  assert.deepEqual([error, channel], ["forbidden", "chat"]);
});
