// The client of packaging/npm when its application, its server or its network fails: late, missing or duplicate answers.

import assert from "node:assert/strict";
import test from "node:test";
import WebSocket from "ws";
import { Philote } from "../../packaging/npm/philote.js";
import { DEADLINE, Inbox, startBoth, startClient, startServer } from "./fake_server.mjs";

/** A `token` whose calls arrive in `asked`, each to be answered by the test. */
function questions() {
  const asked = new Inbox();
  const token = () => new Promise((answer, refuse) => asked.put({ answer, refuse }));
  return { token, asked };
}

/** A client that was admitted with the token "first", and whose later calls the test answers. */
async function startAsked(t, options, access) {
  const { token, asked } = questions();
  const server = await startServer(t);
  const started = startClient(t, server.url, { token, ...options });
  (await asked.next()).answer("first");
  const connection = await server.next();
  assert.equal((await connection.next()).auth, "first");
  connection.access(access);
  await started.reached("open");
  return { server, connection, asked, ...started };
}

/** Everything that the server received so far. */
async function settle(client, connection) {
  const publish = client.publish("chat", "settled");
  const frames = [];
  for (;;) {
    const frame = await connection.next();
    if (frame.data === '"settled"') {
      connection.send({ ack: frame.ack, readers: 0 });
      await publish;
      return frames;
    }
    frames.push(frame);
  }
}

test("of two calls of token() only the newer answer is sent, whichever comes first", DEADLINE, async (t) => {
  const { client, connection, asked } = await startAsked(t);
  for (const olderFirst of [true, false]) {
    client.refresh();
    const older = await asked.next();
    client.refresh();
    const newer = await asked.next();
    for (const question of olderFirst ? [older, newer] : [newer, older]) {
      question.answer(question === older ? "older" : "newer");
      await new Promise(setImmediate);
    }
    assert.deepEqual(await settle(client, connection), [{ auth: "newer" }]);
    connection.access();
  }
});

test("an older call that fails late does not affect the newer one", DEADLINE, async (t) => {
  const { client, connection, asked, heard } = await startAsked(t);
  client.refresh();
  const older = await asked.next();
  client.refresh();
  (await asked.next()).answer("newer");
  assert.equal((await connection.next()).auth, "newer");
  older.refuse(new Error("too late"));
  connection.access();
  assert.deepEqual(await settle(client, connection), []);
  connection.send({ error: "bad_message", message: "the first error" });
  assert.equal((await heard.errors.next()).message, "the first error");
});

test("an answer from before a cut is not sent after it, and one during a connect is", DEADLINE, async (t) => {
  const { client, server, connection, asked, reached } = await startAsked(t);
  client.refresh();
  const stale = await asked.next();
  connection.socket.terminate();
  await reached("connecting");
  const first = await asked.next();
  client.refresh();
  const second = await asked.next();
  first.answer("older");
  stale.answer("stale");
  await new Promise(setImmediate);
  second.answer("newer");
  const next = await server.next();
  assert.equal((await next.next()).auth, "newer");
  next.access();
  await reached("open");
  assert.deepEqual(await settle(client, next), []);
});

test("the probe sends the newest token, even before the server has answered it", DEADLINE, async (t) => {
  const { client, connection, asked } = await startAsked(t, { probe: 300 });
  client.refresh();
  (await asked.next()).answer("newer");
  assert.equal((await connection.next()).auth, "newer");
  assert.equal((await connection.next()).auth, "newer", "not the one in force, which has fewer channels");
});

test("after a refused token the probe sends the one in force", DEADLINE, async (t) => {
  const { client, connection, asked, heard } = await startAsked(t, { probe: 600 });
  client.refresh();
  (await asked.next()).answer("bad");
  assert.equal((await connection.next()).auth, "bad");
  connection.send({ error: "unauthorized", message: "bad signature" });
  assert.equal((await heard.errors.next()).error, "unauthorized");
  assert.equal((await connection.next()).auth, "first");
});

test("answers to two tokens are matched by their order", DEADLINE, async (t) => {
  const { client, connection, asked, heard } = await startAsked(t, { probe: 600 });
  for (const token of ["second", "third"]) {
    client.refresh();
    (await asked.next()).answer(token);
    assert.equal((await connection.next()).auth, token);
  }
  connection.access({ read: ["chat", "second"] });
  connection.send({ error: "unauthorized", message: "bad signature" });
  await heard.errors.next();
  assert.equal((await connection.next()).auth, "second", "the last accepted one");
  connection.access({ read: ["chat", "second"] });
  connection.access({ read: ["chat", "second"] }); // twice
  connection.say("1");
  await heard.values.next();
  assert.deepEqual(client.access.read, ["chat", "second"]);
});

test("a token() that never answers is called again, connected or not", DEADLINE, async (t) => {
  const real = setTimeout;
  t.mock.method(globalThis, "setTimeout", (what, delay, ...details) => real(what, delay / 200, ...details));
  const { client, connection, asked, heard, server, reached } = await startAsked(t);
  client.refresh();
  const never = await asked.next();
  assert.deepEqual(await heard.errors.next(), { error: "token", message: "no token: token() did not answer within 20 s" });
  const next = await asked.next();
  never.answer("never");
  next.answer("next");
  assert.equal((await connection.next()).auth, "next");
  // A server that never answers the token does not end the attempts either.
  (await asked.next()).answer("again");
  assert.equal((await connection.next()).auth, "again");
  connection.access();

  connection.socket.terminate();
  await reached("waiting");
  await asked.next();
  assert.equal((await reached("waiting")).reason, "no token: token() did not answer within 20 s");
  (await asked.next()).answer("at last");
  assert.equal((await (await server.next()).next()).auth, "at last");
});

test("a URL that cannot work throws in the constructor, and is not quoted", () => {
  const secret = "?auth=secret";
  const bad = [
    ["no address", /invalid URL/], ["", /invalid URL/], [undefined, /invalid URL/], [null, /invalid URL/], [{}, /invalid URL/], [6380, /invalid URL/],
    ["//host/", /invalid URL/], ["ws://", /invalid URL/], ["ws://host:99999/", /invalid URL/], ["localhost:6380" + secret, /"localhost:"/],
    ["ftp://x/" + secret, /"ftp:"/], ["file:///x", /"file:"/], ["javascript:1", /"javascript:"/],
    ["ws://h/#x", /fragment/], ["ws://h/#", /fragment/], ["https://h/" + secret + "#x", /fragment/],
  ];
  for (const [url, sentence] of bad) {
    const construct = () => new Philote(url, { token: () => "", WebSocket });
    assert.throws(construct, (error) => error instanceof TypeError && sentence.test(error.message), String(url));
    assert.throws(construct, (error) => !error.message.includes("secret"));
  }
});

test("options that cannot work throw in the constructor, too", () => {
  const token = () => "";
  const bad = [
    [undefined, /token/], [{}, /token/], [{ token: "a token" }, /token/], [{ token, backoff: [500] }, /backoff/],
    [{ token, backoff: [NaN, 1] }, /backoff/], [{ token, probe: -1 }, /probe/], [{ token, queue: "many" }, /queue/],
  ];
  for (const [options, sentence] of bad) {
    assert.throws(() => new Philote("ws://h/", options && { WebSocket, ...options }), { name: "TypeError", message: sentence });
  }
});

test("other forms of a URL work, and an exception of WebSocket is reported and retried", DEADLINE, async (t) => {
  const server = await startServer(t);
  for (const url of [new URL(server.url), server.url.replace("ws:", "HTTP:"), ` ${server.url} `]) {
    startClient(t, url);
    await (await server.next()).next();
  }
  let tries = 0;
  class Throws {
    constructor() {
      tries += 1;
      throw new Error("an insecure connection");
    }
  }
  const { reached } = startClient(t, server.url, { WebSocket: Throws });
  for (let n = 0; n < 2; n++) assert.equal((await reached("waiting")).reason, "cannot connect: an insecure connection");
  assert(tries >= 2);
});

test("the result of token() is checked, and white space and `Bearer` are removed", DEADLINE, async (t) => {
  const bad = [
    [undefined, "undefined"], [null, "null"], [{ token: "secret" }, "an object"], [["secret"], "an object"], [7, "a number"],
    [NaN, "a number"], [true, "a boolean"], [() => "secret", "a function"],
  ].map(([given, what]) => [given, `no token: token() returned ${what}, not a string`]);
  for (const empty of ["", " \n", "Bearer", "bearer  "]) bad.push([empty, "no token: token() returned an empty string"]);
  const good = ["a.b.c\n", " a.b.c", "\uFEFFa.b.c\r\n", "Bearer a.b.c", "bearer\ta.b.c ", "BEARER  a.b.c"];
  const { client, connection, asked, heard, server, reached } = await startAsked(t);
  for (const [given, sentence] of bad) {
    client.refresh();
    (await asked.next()).answer(given);
    assert.deepEqual(await heard.errors.next(), { error: "token", message: sentence });
  }
  for (const given of good) {
    client.refresh();
    (await asked.next()).answer(given);
    assert.deepEqual(await connection.next(), { auth: "a.b.c" });
    connection.access();
  }
  // The same checks apply before a connection.
  connection.socket.terminate();
  await reached("waiting");
  for (const [given, sentence] of bad) {
    (await asked.next()).answer(given);
    assert.equal((await reached("waiting")).reason, sentence);
    assert.equal((await heard.errors.next()).message, sentence);
  }
  (await asked.next()).answer(good[3]);
  assert.deepEqual((await (await server.next()).next()).auth, "a.b.c");
});

test("a handler of a channel that the token does not read is reported once, after access", DEADLINE, async (t) => {
  const server = await startServer(t);
  const { client, heard } = startClient(t, server.url);
  const order = [];
  client.when("access", () => order.push("access"));
  client.when("error", ({ error, channel }) => order.push(`${error} ${channel}`));
  const end = client.on("chta", () => {});
  const connection = await server.next();
  await connection.next();
  connection.access();
  assert.deepEqual(await heard.errors.next(), {
    error: "forbidden", channel: "chta", message: 'this token may not read channel "chta"',
  });
  assert.deepEqual(order, ["access", "forbidden chta"]);
  client.refresh();
  await connection.next();
  connection.access();
  client.on("latre", () => {}); // on an open connection, without a call of token() in progress
  assert.equal((await heard.errors.next()).channel, "latre");
  end();
  client.on("chta", () => {});
  assert.equal((await heard.errors.next()).channel, "chta", "again, because the handler was removed in between");

  client.on("room", () => {});
  client.refresh();
  await connection.next();
  connection.access({ read: ["chat", "room"] });
  connection.say("1");
  await heard.values.next();
  assert.deepEqual(order.slice(2), ["access", "forbidden latre", "forbidden chta", "access"]);
});

test("an invalid message ends neither the connection nor the process", DEADLINE, async (t) => {
  const { heard, connection } = await startBoth(t);
  for (const text of ["no JSON", "null", "7", ""]) {
    connection.socket.send(text);
    assert.equal((await heard.errors.next()).error, "bad_message");
  }
  connection.socket.send(Buffer.from([0xff]));
  await heard.errors.next();
  connection.send({ ack: "77", readers: 1 });
  connection.send({ error: "forbidden", message: "for none", ack: "77" });
  await heard.errors.next();
  connection.say("1");
  assert.equal((await heard.values.next()).value, 1);
});

test("a handler that adds handlers is not called endlessly, and a removed one is not called", DEADLINE, async (t) => {
  const { client, heard, connection } = await startBoth(t);
  let added = 0;
  const end = client.on("chat", () => assert.fail("a removed handler was called"));
  client.on("chat", function again() {
    added += 1;
    client.on("chat", () => (added += 1000));
  });
  end();
  connection.say("1");
  await heard.values.next();
  assert.equal(added, 1);
});

test("a handler that waits for the history does not send a refused token repeatedly", DEADLINE, async (t) => {
  const access = { ids: { chat: "e-7" }, max_message_size: 65536 };
  const { client, connection, asked, heard } = await startAsked(t, { history: true }, access);
  client.on("chat", () => {});
  assert.deepEqual(await connection.next(), { auth: "first", since: { chat: null } });
  connection.send({ error: "unauthorized", message: "the token has expired" });
  await heard.errors.next();
  (await asked.next()).answer("second");
  assert.deepEqual(await connection.next(), { auth: "second", since: { chat: null } }, "this must be the very next frame");
});

test("a handler that waited for a discarded history gets new messages, and a possible gap is reported", DEADLINE, async (t) => {
  const access = { ids: { chat: "e-7" }, max_message_size: 65536 };
  const { client, connection, heard } = await startAsked(t, { history: true }, access);
  const late = new Inbox();
  client.on("chat", late.put);
  await connection.next();
  connection.say('"skipped"', { id: "e-8" });
  connection.access({ max_message_size: 65536 });
  connection.say('"heard"');
  assert.equal(await late.next(), "heard");
  assert.deepEqual(heard.recovered, [{ channel: "chat", recovered: false }]);
  assert.equal((await heard.values.next()).value, "skipped");
});

test("a frame of a wrong form ends the connection with an error, and throws nothing", DEADLINE, async (t) => {
  const server = await startServer(t);
  const { heard, reached } = startClient(t, server.url);
  const message = { issuer: "other", channel: "chat", data: "1" };
  for (const frame of [{ access: { read: 5 } }, { joined: 5, access: { read: {} } }, { ...message, id: 5 }, { ...message, id: {} }]) {
    const connection = await server.next();
    await connection.next();
    connection.access({ ids: { chat: "aa-1" } });
    await reached("open");
    connection.send(frame);
    const { error, message } = await heard.errors.next();
    assert.equal(error, "bad_message");
    assert.match(message, /^the server sent a frame of a wrong form: /);
    assert.equal((await reached("waiting")).code, 1002);
  }
});
