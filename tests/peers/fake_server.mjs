// A server that a test scripts, and clients of packaging/npm for it.

import { once } from "node:events";
import WebSocket, { WebSocketServer } from "ws";
import { Philote } from "../../packaging/npm/philote.js";

/** The time limit of a whole test in milliseconds, so that a missing event is a failure and not a hang. */
export const DEADLINE = { timeout: 20_000 };

/** A queue whose readers wait for the next value. */
export class Inbox {
  #values = [];
  #waiting = [];
  put = (value) => {
    const take = this.#waiting.shift();
    if (take) take(value);
    else this.#values.push(value);
  };
  next = () => (this.#values.length ? this.#values.shift() : new Promise((take) => this.#waiting.push(take)));
  /** Takes values until one matches. */
  async until(fits) {
    for (;;) {
      const value = await this.next();
      if (fits(value)) return value;
    }
  }
}

/** A server whose connections arrive in `next`, each with its own `next` for frames. */
export async function startServer(t) {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  await once(server, "listening");
  t.after(() => server.close());
  const connections = new Inbox();
  let count = 0;
  server.on("connection", (socket, request) => {
    t.after(() => socket.terminate());
    const frames = new Inbox();
    socket.on("message", (text) => frames.put(JSON.parse(text)));
    const id = `connection-${++count}`;
    const send = (frame) => socket.send(JSON.stringify(frame));
    const access = (more) => send({ access: { connection: id, read: ["chat"], write: ["chat"], expires_at: null, ...more } });
    const say = (data, more) => send({ issuer: "other", channel: "chat", data, ...more });
    connections.put({ id, socket, request, send, access, say, next: frames.next });
  });
  return { url: `ws://127.0.0.1:${server.address().port}/`, next: connections.next, count: () => count };
}

/** A client that reconnects at once, and the events that it reports. */
export function startClient(t, url, options) {
  const client = new Philote(url, { token: () => "a token", backoff: [1, 1], probe: 0, WebSocket, ...options });
  t.after(() => client.close());
  const states = new Inbox();
  const heard = { states, recovered: [], errors: new Inbox(), values: new Inbox() };
  client.when("state", states.put);
  client.when("recovered", (one) => heard.recovered.push(one));
  client.when("error", heard.errors.put);
  client.on("chat", (value, message) => heard.values.put({ value, message }));
  return { client, heard, reached: (state) => states.until((one) => one.state === state) };
}

/** A client that its server has admitted. */
export async function startBoth(t, options, access) {
  const server = await startServer(t);
  const started = startClient(t, server.url, options);
  const connection = await server.next();
  await connection.next();
  connection.access(access);
  await started.reached("open");
  return { server, connection, ...started };
}
