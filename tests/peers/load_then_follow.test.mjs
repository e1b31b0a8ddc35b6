// Load, then follow: under traffic, with reconnections and restarts, the state that clients hold is the backend's.

import assert from "node:assert/strict";
import test from "node:test";
import WebSocket from "ws";
import { Philote } from "../../packaging/npm/philote.js";
import { sign, startPhilote } from "./philote.mjs";
import { startProxy } from "./proxy.mjs";

const ROUNDS = 16;
/** After each of so many rounds the daemon is replaced by another one, whose histories have other epochs. */
const RESTART = 4;
const CLIENTS = 6;
/** Fewer than the changes of a long round, so that some clients that return have missed too many. */
const HISTORY = 25;
const CHANNEL = "orders:7";

/** Numbers from 0 to `below`, the same for the same seed. */
function random(seed) {
  return (below) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };
}

const later = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** A backend with a state. It stores each change, then publishes it, and answers its state with the channel's id. */
function startBackend(pick) {
  const state = { version: 0, orders: {} };
  const backend = { state, philote: undefined, published: 0, loads: 0 };
  // One step at a time, as in one transaction.
  let last = Promise.resolve();
  const step = (what) => (last = last.then(what, what));
  const ask = async (path, body) => {
    const headers = { Authorization: `Bearer ${sign(backend.philote, { api: true })}` };
    const answer = await fetch(`http://${backend.philote.address}${path}`, { headers, ...(body && { method: "POST", body: JSON.stringify(body) }) });
    if (answer.status === 503) throw new TypeError("the daemon stops");
    assert.equal(answer.status, 200, await answer.clone().text());
    return answer.json();
  };
  backend.change = () =>
    step(async () => {
      const [order, value] = [`order ${pick(20)}`, pick(1000)];
      state.version++;
      state.orders[order] = value;
      try {
        const { published } = await ask("/api/publish", { channel: CHANNEL, data: JSON.stringify({ version: state.version, order, value }) });
        assert.match(published[0].id, /^[0-9a-f]+-\d+$/);
        backend.published++;
      } catch (error) {
        // The daemon is down. All clients load the state when it is back.
        assert(error instanceof TypeError, error);
      }
    });
  backend.read = () =>
    step(async () => {
      backend.loads++;
      const { id } = await ask(`/api/channels/${encodeURIComponent(CHANNEL)}`);
      return { id, copy: structuredClone(state) };
    });
  return backend;
}

/** A client with its own network, which holds the state. `reaches` waits for a version. */
async function startClient(t, backend, pick, claims) {
  const proxy = await startProxy(t, backend.philote.address);
  const client = new Philote(`ws://${proxy.address}/`, { token: () => sign(backend.philote, claims), backoff: [5, 40], WebSocket });
  t.after(() => client.close());
  const held = { proxy, client, state: undefined, recovered: [], faults: [], loads: 0 };
  const waiting = new Set();
  const changed = () => [...waiting].forEach((check) => check());
  const apply = ({ version, order, value }, { id }) => {
    if (version !== held.state.version + 1) held.faults.push(`${version} (${id}) came after ${held.state.version}`);
    held.state.version = version;
    held.state.orders[order] = value;
    changed();
  };
  const load = async () => {
    held.loads++;
    const { id, copy } = await backend.read();
    await later(pick(30));
    if (pick(8) === 0) throw new Error("the answer was lost");
    held.state = copy;
    changed();
    return id;
  };
  client.on(CHANNEL, apply, { load });
  client.when("recovered", ({ recovered }) => held.recovered.push(recovered));
  held.reaches = (version) =>
    new Promise((resolve) => {
      const check = () => held.state?.version === version && (waiting.delete(check), resolve());
      waiting.add(check);
      check();
    });
  return held;
}

test("at each check the state of every client is the backend's", { timeout: 240_000 }, async (t) => {
  const seed = Number(process.env.PHILOTE_SEED ?? Date.now() % 100_000);
  t.diagnostic(`PHILOTE_SEED=${seed}`);
  const pick = random(seed);
  const start = (secret) =>
    startPhilote(t, { SECRET: secret, PHILOTE_HISTORY_CHANNELS: `[{ prefix = "orders:", messages = ${HISTORY} }]`, PHILOTE_SHUTDOWN_DRAIN: "0s" });
  const backend = startBackend(pick);
  const secret = "the secret that outlives all of these daemons";
  const restart = async () => {
    await backend.philote?.stop();
    backend.philote = Object.assign(await start(secret), { secret });
  };
  await restart();
  const clients = [];
  for (let round = 1; round <= ROUNDS; round++) {
    if (clients.length < CLIENTS) {
      const claims = clients.length % 2 ? { may: { read: ["orders:*"] } } : { read: [CHANNEL] };
      clients.push(await startClient(t, backend, pick, claims));
    }
    const changes = Promise.all(Array.from({ length: 5 + pick(60) }, backend.change));
    // Some are cut and return in the middle of the changes, some after them, and some twice.
    const networks = clients.map(async ({ proxy }) => {
      for (let cuts = pick(3); cuts > 0; cuts--) {
        await later(pick(40));
        proxy.cut();
        if (pick(2)) await changes;
        proxy.open();
      }
    });
    if (round % RESTART === 0) {
      await later(pick(50));
      await restart();
      for (const { proxy } of clients) proxy.target = backend.philote.address;
    }
    await Promise.all([changes, ...networks]);
    const { version, orders } = backend.state;
    await Promise.all(clients.map((client) => client.reaches(version)));
    for (const [number, { state, faults }] of clients.entries()) {
      assert.deepEqual(faults, [], `round ${round}, client ${number}`);
      assert.deepEqual(state, { version, orders }, `round ${round}, client ${number}`);
    }
  }
  const recovered = clients.flatMap((client) => client.recovered);
  const counts = [true, false].map((value) => recovered.filter((one) => one === value).length);
  const loads = clients.reduce((sum, client) => sum + client.loads, 0);
  t.diagnostic(`${backend.state.version} changes, ${backend.published} published; recovered ${counts[0]} times, not ${counts[1]} times; ${loads} loads`);
  assert(counts[0] > 0 && counts[1] >= CLIENTS, `${counts}`);
});
