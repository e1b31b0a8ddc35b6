// The client of packaging/npm respects the limits of a real server, detects dead connections, and starts with the history.

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import test from "node:test";
import WebSocket from "ws";
import { DEADLINE as SHORT, Inbox, startBoth, startClient, startServer } from "./fake_server.mjs";
import { DEADLINE, openBrowser, sign, startPhilote } from "./philote.mjs";
import { startProxy } from "./proxy.mjs";

const CLAIMS = { read: ["chat"], write: ["chat"] };

/** A connected client of a daemon, perhaps behind a proxy, and the events that it reports. */
async function startReal(t, philote, options = {}, { address = philote.address, claims = CLAIMS, token } = {}) {
  const started = startClient(t, `ws://${address}/`, { token: token ?? (() => sign(philote, claims)), probe: 15_000, ...options });
  await started.reached("open");
  return started;
}

/** Applies settings. */
async function reload(philote, settings) {
  await writeFile(join(philote.directory, "philote.toml"), settings);
  const before = philote.output.length;
  philote.signal("SIGHUP");
  await philote.says(new RegExp(`^[^]{${before}}[^]*reloaded`));
}

const numbers = (count) => Array.from({ length: count }, (_, n) => n);

for (const stalls of [false, true]) {
  const name = stalls ? "also when the network holds them up and lets them go at once" : "all arrive, in order";
  test(`200 publishes queued before the connection, against 10 a second: ${name}`, DEADLINE, async (t) => {
    const philote = await startPhilote(t, { PHILOTE_LIMITS_MESSAGES_PER_SECOND: "10" });
    const proxy = await startProxy(t, philote.address);
    const reader = await startReal(t, philote);
    const { client, heard } = startClient(t, `ws://${proxy.address}/`, { token: () => sign(philote, CLAIMS) });
    const answers = numbers(200).map((n) => client.publish("chat", n));
    if (stalls) {
      for (let n = 0; n < 3; n++) {
        await reader.heard.values.next();
        proxy.stall();
        await new Promise((resolve) => setTimeout(resolve, 2500));
        proxy.open();
      }
    }
    const read = [];
    while (read.length < (stalls ? 197 : 200)) read.push((await reader.heard.values.next()).value);
    assert.deepEqual(read, numbers(200).slice(stalls ? 3 : 0));
    assert((await Promise.all(answers)).every((readers) => readers === 1));
    assert(!/rate_limited|4429/.test(philote.output));
    client.publish("chat", "closed for nothing?");
    await reader.heard.values.next();
    assert.deepEqual([client.state.state, heard.recovered], ["open", []]);
  });
}

test("a rate in bytes is respected, and one message over a second's worth is sent after a pause", DEADLINE, async (t) => {
  const philote = await startPhilote(t, { PHILOTE_LIMITS_BYTES_PER_SECOND: "8KiB" });
  const reader = await startReal(t, philote);
  const { client } = startClient(t, `ws://${philote.address}/`, { token: () => sign(philote, CLAIMS) });
  const texts = [..."abcd".repeat(5)].map((letter) => letter.repeat(1500)).concat("x".repeat(20_000), "é".repeat(900));
  const answers = texts.map((text) => client.publish("chat", text));
  for (const text of texts) assert.equal((await reader.heard.values.next()).value, text);
  await Promise.all(answers);
});

test("a reload that sets or lowers the rate loses no message", DEADLINE, async (t) => {
  const philote = await startPhilote(t);
  const reader = await startReal(t, philote);
  const { client, reached } = startClient(t, `ws://${philote.address}/`, { token: () => sign(philote, CLAIMS) });
  await reached("open");
  await client.publish("chat", -1);
  await reload(philote, "[limits]\nmessages_per_second = 20\n");
  // The client knows of no rate, so it sends everything at once: some are accepted, some refused, and the connection is closed.
  const answers = numbers(150).map((n) => client.publish("chat", n));
  await reader.heard.values.until(({ value }) => value === 0);
  const read = [0];
  while (read.length < 150) read.push((await reader.heard.values.next()).value);
  await Promise.all(answers);
  assert.deepEqual(read.toSorted((one, other) => one - other), numbers(150), "each once");
  assert.equal(client.access.messages_per_second, 20);
});

test("a message over the rate is sent again, in order, at the rate in the rejection", SHORT, async (t) => {
  const { client, connection, heard } = await startBoth(t);
  const answers = [1, 2, 3].map((n) => client.publish("chat", n));
  const acks = [await connection.next(), await connection.next(), await connection.next()].map(({ ack }) => ack);
  for (const ack of [acks[1], acks[2], acks[0]]) {
    connection.send({ error: "rate_limited", message: "too fast", ack, messages_per_second: 2 });
  }
  const began = performance.now();
  for (const [at, ack] of acks.entries()) {
    const frame = await connection.next();
    assert.deepEqual([frame.ack, frame.data], [ack, String(at + 1)]);
    connection.send({ ack, readers: at });
    connection.send({ ack, readers: 99 }); // twice
  }
  assert.deepEqual(await Promise.all(answers), [0, 1, 2]);
  assert(performance.now() - began > 1500, "not at once");
  connection.send({ error: "bad_message", message: "the first that is told" });
  assert.equal((await heard.errors.next()).error, "bad_message");
});

test("4429 loses no unanswered message", SHORT, async (t) => {
  const { client, server, connection } = await startBoth(t, { backoff: [1, 1] });
  const answers = [1, 2, 3].map((n) => client.publish("chat", n));
  const first = await connection.next();
  connection.send({ ack: first.ack, readers: 1 });
  await answers[0];
  connection.socket.close(4429, "publishing too fast");
  const second = await server.next();
  await second.next();
  second.access();
  for (const data of ["2", "3"]) {
    const frame = await second.next();
    assert.equal(frame.data, data);
    second.send({ ack: frame.ack, readers: 1 });
  }
  assert.deepEqual(await Promise.all(answers), [1, 1, 1]);
});

test("a token over the rate is sent again, and does not count as a publish", SHORT, async (t) => {
  const { client, connection } = await startBoth(t);
  const publish = client.publish("chat", 1);
  const { ack } = await connection.next();
  client.refresh();
  await connection.next();
  connection.send({ error: "rate_limited", message: "too fast" });
  assert.deepEqual(await connection.next(), { auth: "a token" });
  connection.access();
  connection.send({ error: "rate_limited", message: "a pong was too fast" });
  connection.send({ ack, readers: 5 });
  assert.equal(await publish, 5);
});

test("a publish over max_message_size is rejected unsent, and others arrive", DEADLINE, async (t) => {
  const philote = await startPhilote(t, { PHILOTE_WEBSOCKET_MAX_MESSAGE_SIZE: "1KiB" });
  const reader = await startReal(t, philote);
  const { client, heard, reached } = startClient(t, `ws://${philote.address}/`, { token: () => sign(philote, CLAIMS) });
  const frame = (data, ack) => Buffer.byteLength(JSON.stringify({ channel: "chat", data: JSON.stringify(data), ack }));
  // It is queued before the limit is known, and must not affect the message after it.
  const queued = client.publish("chat", "é".repeat(600));
  const innocent = client.publish("chat", "innocent");
  await assert.rejects(queued, { code: "message_too_big", message: /has 12\d\d bytes, .* max_message_size is 1024/ });
  assert.equal(await innocent, 1);
  assert.equal((await reader.heard.values.next()).value, "innocent");
  await reached("open");
  // Exact to the byte, in UTF-8 and with the escapes of JSON.
  for (const letter of ["x", "é", "€", "😀", '"', "\n", "\u0001"]) {
    let fits = letter;
    while (frame(fits + letter, "10") <= 1024) fits += letter;
    fits += "x".repeat(1024 - frame(fits, "10"));
    // Acks have one or two digits; only the longest matters here.
    await client.publish("chat", fits).catch(() => assert.fail(`${letter} fits`));
    assert.equal((await reader.heard.values.next()).value, fits);
    await assert.rejects(client.publish("chat", `${fits}xx`), { code: "message_too_big" });
  }
  assert.equal(client.state.state, "open");
  assert.deepEqual(heard.recovered, [], "the connection was never closed");
});

test("a reload that lowers max_message_size rejects only the message that is too large", DEADLINE, async (t) => {
  const philote = await startPhilote(t);
  const reader = await startReal(t, philote);
  const { client } = await startReal(t, philote);
  await client.publish("chat", "before");
  await reload(philote, '[websocket]\nmax_message_size = "1KiB"\n');
  const answers = ["a", "b".repeat(5000), "c"].map((text) => client.publish("chat", text));
  await assert.rejects(answers[1], { code: "message_too_big" });
  for (const answer of [answers[0], answers[2]]) assert.equal(await answer, 1);
  const read = [];
  while (read.length < 3) read.push((await reader.heard.values.next()).value);
  assert.deepEqual(read, ["before", "a", "c"]);
});

test("a server that reports no limits gets everything at once, as before", SHORT, async (t) => {
  const { client, connection } = await startBoth(t);
  const answers = numbers(300).map((n) => client.publish("chat", n % 2 ? n : "x".repeat(100_000)));
  for (let n = 0; n < 300; n++) connection.send({ ack: (await connection.next()).ack, readers: n });
  assert.deepEqual(await Promise.all(answers), numbers(300));
});

test("a dead connection is detected within `probe` of silence", DEADLINE, async (t) => {
  const philote = await startPhilote(t);
  const proxy = await startProxy(t, philote.address);
  const { reached } = await startReal(t, philote, {}, { address: proxy.address });
  proxy.stall();
  const began = performance.now();
  assert.equal((await reached("waiting")).reason, "no answer from the server");
  const seconds = (performance.now() - began) / 1000;
  t.diagnostic(`noticed after ${seconds.toFixed(1)} s`);
  // The ticks once took up to 44 s. The limit is 15 s; the rest is for a busy machine.
  assert(seconds < 25, `${seconds} s`);
});

test("silence is measured by the clock: late timers do not extend it, and unread messages end it", SHORT, async (t) => {
  // In a page in the background all timers are late.
  const real = setTimeout;
  let late = 0;
  t.mock.method(globalThis, "setTimeout", (what, delay, ...details) => real(what, delay + late, ...details));
  const { connection, reached } = await startBoth(t, { probe: 300 });
  late = 600;
  await connection.next();
  connection.access();
  await connection.next();
  connection.access();
  // The process was busy for longer than the limit: the answer has arrived, but has not been read yet.
  late = 0;
  await connection.next();
  connection.access();
  const until = performance.now() + 500;
  while (performance.now() < until);
  await connection.next();
  connection.access();
  await connection.next(); // the server does not answer
  assert.equal((await reached("waiting")).reason, "no answer from the server");
});

test("in Chromium, `online` probes the connection, and a dead one is replaced", DEADLINE, async (t) => {
  const philote = await startPhilote(t);
  const proxy = await startProxy(t, philote.address);
  const pages = createServer(async ({ url }, response) => {
    const isClient = url === "/philote.js";
    response.setHeader("Content-Type", isClient ? "text/javascript" : "text/html");
    response.end(isClient ? await readFile(new URL("../../packaging/npm/philote.js", import.meta.url)) : "<!doctype html>");
  });
  await once(pages.listen(0, "127.0.0.1"), "listening");
  t.after(() => pages.close());
  const page = await openBrowser(t);
  await page.goto(`http://127.0.0.1:${pages.address().port}/`);
  await page.evaluate(
    async ([url, token]) => {
      const { Philote } = await import("/philote.js");
      // Regular probes would come after 40 s.
      window.philote = new Philote(url, { token: () => token, probe: 60_000, backoff: [50, 50] });
      window.states = [];
      window.philote.when("state", ({ state, reason }) => window.states.push([state, reason]));
      await new Promise((resolve) => window.philote.when("access", resolve));
    },
    [`ws://${proxy.address}/`, sign(philote, CLAIMS)],
  );
  // A connection that works answers, and stays open.
  await page.evaluate(() => {
    const answered = new Promise((resolve) => window.philote.when("access", resolve));
    window.dispatchEvent(new Event("online"));
    return answered;
  });
  proxy.stall();
  await page.evaluate(() => window.dispatchEvent(new Event("online")));
  await page.waitForFunction(() => window.states.some(([state]) => state === "waiting"), null, { timeout: 35_000 });
  proxy.open();
  await page.waitForFunction(() => window.states.filter(([state]) => state === "open").length === 2);
  const reasons = await page.evaluate(() => window.states.map(([, reason]) => reason).filter(Boolean));
  assert.equal(reasons[0], "no answer from the server");
});

test("history: true delivers the whole history to a handler that is added later or again", DEADLINE, async (t) => {
  const philote = await startPhilote(t, { PHILOTE_HISTORY_MESSAGES: "5" });
  const other = await startReal(t, philote);
  const { client, heard } = await startReal(t, philote, { history: true });
  for (const n of numbers(7)) await other.client.publish("chat", n);
  for (const n of numbers(7)) assert.equal((await heard.values.next()).value, n);
  await client.publish("chat", "own");
  const add = () => {
    const values = new Inbox();
    return [values, client.on("chat", values.put)];
  };
  const [first, end] = add();
  const [second] = add();
  await other.client.publish("chat", "next");
  const all = [2, 3, 4, 5, 6, "own", "next"];
  for (const values of [first, second]) {
    const got = [await values.next()];
    while (got.at(-1) !== "next") got.push(await values.next());
    assert.deepEqual(got, all.slice(-got.length));
    assert(got.length >= 5, `${got}`);
  }
  end();
  const [again] = add();
  await other.client.publish("chat", "last");
  const got = [];
  while (got.at(-1) !== "last") got.push(await again.next());
  assert.deepEqual(got, [4, 5, 6, "own", "next", "last"].slice(-got.length));
  assert(got.length >= 5, `${got}`);
  assert.equal(await second.next(), "last", "a handler that received everything gets nothing twice");
  assert.deepEqual([(await heard.values.next()).value, (await heard.values.next()).value], ["next", "last"]);
  assert.deepEqual(heard.recovered, []);
});

test("a handler that was added while disconnected gets the whole history, and others resume", DEADLINE, async (t) => {
  const philote = await startPhilote(t, { PHILOTE_HISTORY_MESSAGES: "10" });
  const proxy = await startProxy(t, philote.address);
  const other = await startReal(t, philote);
  const { client, heard, reached } = await startReal(t, philote, { history: true }, { address: proxy.address });
  for (const n of [1, 2]) await other.client.publish("chat", n);
  for (const n of [1, 2]) assert.equal((await heard.values.next()).value, n);
  proxy.cut();
  await reached("waiting");
  await other.client.publish("chat", 3);
  const late = new Inbox();
  client.on("chat", late.put);
  proxy.open();
  for (const n of [1, 2, 3]) assert.equal(await late.next(), n);
  assert.equal((await heard.values.next()).value, 3);
  assert.deepEqual(heard.recovered, [{ channel: "chat", recovered: true }]);
});
