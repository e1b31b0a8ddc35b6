// A page that runs for weeks: in Chromium, the client survives restart after restart of the daemon and keeps nothing of them.

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import test from "node:test";
import { openBrowser, publish, sign, startPhilote } from "./philote.mjs";
import { startProxy } from "./proxy.mjs";

/** PHILOTE_RESTARTS=200 takes some minutes. */
const RESTARTS = Number(process.env.PHILOTE_RESTARTS ?? 30);
/** After so many restarts everything is compiled and every table has its size. */
const SETTLED = 10;
/** Messages that the daemon keeps of a channel, in turn. */
const HISTORIES = ["0", "5", "50"];
/** How far the heap may grow from then on, in bytes: a leak of one small object each restart would still fit, one frame not. */
const GROWTH = 200_000;
const PADDING = "x".repeat(2_000);

/** The page and its backend, which signs a token for other channels after each restart. */
async function startBackend(t, backend) {
  const client = await readFile(new URL("../../packaging/npm/philote.js", import.meta.url));
  const server = createServer(({ url }, response) => {
    if (url === "/philote.js") return response.setHeader("Content-Type", "text/javascript").end(client);
    if (url !== "/token") return response.setHeader("Content-Type", "text/html").end("<!doctype html>");
    const read = ["news", `room-${backend.turn % 7}`, `once-${backend.turn}`];
    response.end(sign(backend, { sub: `kiosk ${backend.turn}`, read, write: read, exp: Math.floor(Date.now() / 1000) + 3_600 }));
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.after(() => server.close());
  return `http://127.0.0.1:${server.address().port}/`;
}

/** What runs in the page: handlers come and go with the channels, and only the last message is kept. */
async function startPage(page, address) {
  await page.evaluate(async (url) => {
    const { Philote } = await import("/philote.js");
    const token = async () => (await fetch("/token")).text();
    const philote = new Philote(url, { token, history: true, backoff: [10, 50] });
    const last = (window.last = { told: 0, opened: 0, recovered: 0 });
    philote.on("news", (value) => (last.news = value.number));
    philote.when("message", () => last.told++);
    philote.when("recovered", () => last.recovered++);
    let ends = [];
    let once;
    philote.when("access", ({ read }) => {
      // A new handler requests its history, which is answered by another `access`.
      if (once === read.at(-1)) return;
      once = read.at(-1);
      for (const end of ends) end();
      ends = read.map((channel) => philote.on(channel, () => {}));
      last.opened++;
      for (let n = 0; n < 5; n++) philote.publish(read[1], { n });
    });
    window.philote = philote;
  }, `ws://${address}/`);
}

/** The used heap after a collection, in bytes, and how many WebSockets are alive. */
async function weigh(debug) {
  for (let time = 0; time < 3; time++) await debug.send("HeapProfiler.collectGarbage");
  const { usedSize } = await debug.send("Runtime.getHeapUsage");
  const { result } = await debug.send("Runtime.evaluate", { expression: "WebSocket.prototype" });
  const { objects } = await debug.send("Runtime.queryObjects", { prototypeObjectId: result.objectId, objectGroup: "weighed" });
  const { result: properties } = await debug.send("Runtime.getProperties", { objectId: objects.objectId, ownProperties: true });
  await debug.send("Runtime.releaseObjectGroup", { objectGroup: "weighed" });
  await debug.send("Runtime.releaseObject", { objectId: result.objectId });
  return { bytes: usedSize, sockets: properties.find(({ name }) => name === "length").value.value };
}

test(`the client keeps nothing of ${RESTARTS} restarts`, { timeout: 900_000 }, async (t) => {
  const backend = { turn: 0, secret: "the secret that outlives all of these daemons" };
  const start = (turn) =>
    startPhilote(t, { SECRET: backend.secret, PHILOTE_HISTORY_MESSAGES: HISTORIES[turn % HISTORIES.length], PHILOTE_SHUTDOWN_DRAIN: "0s" });
  let philote = await start(0);
  philote.secret = backend.secret;
  const proxy = await startProxy(t, philote.address);
  const page = await openBrowser(t);
  const failures = [];
  page.on("pageerror", (error) => failures.push(error.message));
  await page.goto(await startBackend(t, backend));
  const debug = await page.context().newCDPSession(page);
  await startPage(page, proxy.address);

  let number = 0;
  const weights = [];
  for (backend.turn = 0; backend.turn <= RESTARTS; ) {
    await page.waitForFunction((turn) => window.last.opened > turn && window.philote.state.state === "open", backend.turn);
    for (let n = 0; n < 20; n++) await publish(philote, "news", JSON.stringify({ number: ++number, PADDING }));
    await publish(philote, `once-${backend.turn}`, PADDING);
    await page.waitForFunction((number) => window.last.news === number, number);
    if (backend.turn % 10 === 0) weights.push({ restarts: backend.turn, ...(await weigh(debug)) });
    if (backend.turn++ === RESTARTS) break;
    await philote.stop();
    philote = await start(backend.turn);
    philote.secret = backend.secret;
    proxy.target = philote.address;
  }
  t.diagnostic(weights.map(({ restarts, bytes, sockets }) => `${restarts}: ${Math.round(bytes / 1000)} kB, ${sockets} sockets`).join("; "));
  const told = await page.evaluate(() => window.last);
  t.diagnostic(JSON.stringify(told));
  assert.deepEqual(failures, []);
  assert(told.recovered >= RESTARTS && told.told >= 20 * RESTARTS, JSON.stringify(told));
  const settled = weights.filter(({ restarts }) => restarts >= SETTLED);
  // The open one, and at most one that Chromium has not finalized.
  for (const { sockets } of settled) assert(sockets <= 2, `${sockets} WebSockets are alive`);
  const growth = settled.at(-1).bytes - settled[0].bytes;
  assert(growth < GROWTH, `the heap grew by ${growth} bytes`);
});
