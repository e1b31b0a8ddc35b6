// A small client of philote.v1 that passes every case of `philotectl conformance`, and with the name of a case as its argument
// does wrong what that case tests. It shares no code with the clients of packaging.

import { createInterface } from "node:readline";
import WebSocket from "ws";

/** The case to fail. */
const wrong = process.argv[2];
const is = (name) => wrong === name;

const tell = (event, more) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`);
const lines = createInterface({ input: process.stdin });

/** The longest range of waits after a failed attempt, as a power of two of the first one. */
const DOUBLINGS = 16;
/** The wait after `rate_limited` and before a token that follows a refused one, in milliseconds. */
const PAUSE = 1200;

let options;
let token;
let nextToken;
let socket;
let isOpen = false;
let closed = false;
let attempts = 0;
let timer;
let pulse;
let renewal;
/** The last id of each channel, and the joined channels. */
const ids = new Map();
const rooms = new Set();
/** Messages that wait to be sent, and those that wait for an answer, by their ack. */
const waiting = new Map();
const sent = new Map();
let pausedUntil = 0;

const send = (frame) => socket.send(JSON.stringify(frame));

/** Asks the application for a token. */
const askToken = () =>
  new Promise((answer) => {
    nextToken = answer;
    tell("token");
  });

async function connect() {
  tell("state", { state: "connecting" });
  if (token === undefined) token = await askToken();
  const url = is("token-first") ? `${options.url}?auth=${token}` : options.url;
  const one = (socket = new WebSocket(url, "philote.v1", { autoPong: !is("ping") }));
  const now = (what) => (...given) => one === socket && what(...given);
  const giveUp = () => {
    one.terminate();
    lost(1006, "the attempt took too long");
  };
  timer = setTimeout(now(giveUp), options.timers.attempt);
  if (is("mute")) clearTimeout(timer);
  one.on("open", now(() => {
    if (is("mute-token")) clearTimeout(timer);
    const since = Object.fromEntries([...ids].filter(([channel]) => !rooms.has(channel)));
    if (is("resume")) for (const channel in since) since[channel] = since[channel].replace(/.$/, "0");
    if (is("resume-empty")) for (const channel in since) if (since[channel].endsWith("-0")) delete since[channel];
    send({ auth: token, since });
  }));
  one.on("message", now((text) => hear(String(text))));
  one.on("error", () => {
    if (is("broken-frame") && isOpen) socket = undefined; // and never again
  });
  one.on("close", now((code, reason) => lost(code, String(reason))));
}

function lost(code, reason) {
  const wasOpen = isOpen;
  [socket, isOpen] = [undefined, false];
  for (const one of [timer, pulse, renewal]) clearTimeout(one);
  for (const [ack, { number, frame }] of sent) {
    sent.delete(ack);
    if (is("unanswered")) waiting.set(ack, { number, frame });
    tell("failed", { number, code: "unanswered" });
  }
  if (code === 4401 && !is("expired")) token = undefined;
  if (closed || (code === 4403 && !is("stay-away"))) return tell("state", { state: "closed", code, reason });
  const told = is("too-slow") ? {} : { code, reason };
  tell("state", { state: "waiting", ...told });
  if (is("cut") && code === 1006) return;
  const { backoff_first: first, backoff_longest: longest } = options.timers;
  attempts = wasOpen ? 0 : attempts + 1;
  let wait = Math.random() * Math.min(longest, first * 2 ** Math.min(attempts, DOUBLINGS));
  if (["unavailable", "full", "rejected"].some(is)) wait = 0;
  if (is("restart")) wait = 0;
  setTimeout(connect, wait);
}

/** A sign of life of the server, and the next look at it. */
function watch() {
  clearTimeout(pulse);
  if (is("silence")) return;
  const { silence } = options.timers;
  pulse = setTimeout(() => {
    socket.ping();
    socket.once("pong", watch);
    pulse = setTimeout(() => {
      socket.terminate();
      lost(1006, "the server is silent");
    }, silence / 3);
  }, (silence * 2) / 3);
}

function hear(text) {
  watch();
  let frame;
  try {
    frame = JSON.parse(text);
  } catch (error) {
    if (is("malformed")) throw error;
  }
  if (typeof frame !== "object" || frame === null) return tell("error", { message: "not an object" });
  if (frame.access) enter(frame.access);
  else if (frame.joined) Object.entries(frame.joined).forEach(([channel, { id }]) => ids.set(channel, id));
  else if (frame.left) frame.left.forEach((channel) => ids.delete(channel));
  else if (frame.error) refused(frame);
  else if (frame.ack !== undefined) answered(frame);
  else if (frame.channel !== undefined) deliver(frame);
  else if (is("unknown")) throw new Error("an unknown frame");
}

function enter({ ids: positions = {}, recovered = {}, expires_at: expires }) {
  const isFirst = !isOpen;
  clearTimeout(timer);
  for (const [channel, id] of Object.entries(positions)) {
    if (is("epoch") && ids.has(channel)) continue;
    if (isFirst) ids.set(channel, id);
  }
  if (isFirst) {
    isOpen = true;
    tell("state", { state: "open" });
    for (const [channel, value] of Object.entries(recovered)) {
      if (!is("gap")) tell("recovered", { channel, recovered: value });
    }
    for (const channel of rooms) if (!is("rejoin")) send({ join: [channel], since: { [channel]: ids.get(channel) } });
    flush();
  }
  clearTimeout(renewal);
  const left = expires === null ? 0 : Date.parse(expires) - Date.now();
  if (left > 0 && !is("renewal")) renewal = setTimeout(renew, left * (0.7 + 0.2 * Math.random()));
}

async function renew() {
  const one = socket;
  token = await askToken();
  if (one === socket) send({ auth: token });
}

function deliver({ channel, data, id }) {
  const [epoch, number] = (id ?? "").split("-");
  const [lastEpoch, last] = (ids.get(channel) ?? "").split("-");
  const isOld = (epoch === lastEpoch || is("epoch")) && +number <= +last;
  if (isOld && !is("double")) return;
  if (id !== undefined) ids.set(channel, id);
  if (is("large")) data = data.slice(0, 65_536).replaceAll("\0", "");
  const say = () => tell("message", { channel, data });
  if (is("order") && Number(number) % 100 === 0) setTimeout(say, 50);
  else say();
}

function refused({ error, ack, message }) {
  if (error === "unauthorized") {
    if (is("renewal-refused")) return socket.close(1000);
    renewal = setTimeout(renew, PAUSE);
    return;
  }
  const publish = sent.get(ack);
  sent.delete(ack);
  if (!publish) return tell("error", { message });
  if (error === "rate_limited") {
    pausedUntil = is("rate-limited") ? 0 : Date.now() + PAUSE;
    waiting.set(ack, publish);
    return flush();
  }
  if (!is("forbidden")) tell("failed", { number: publish.number, code: error, message });
}

function answered({ ack, readers, id }) {
  const publish = sent.get(ack);
  sent.delete(ack);
  if (!publish) return;
  if (id !== undefined) ids.set(publish.frame.channel, id);
  tell("published", { number: publish.number, readers: is("ack") ? 0 : readers });
}

function flush() {
  const wait = pausedUntil - Date.now();
  if (wait > 0) return void setTimeout(flush, wait);
  if (!isOpen) return;
  for (const [ack, publish] of waiting) {
    waiting.delete(ack);
    sent.set(ack, publish);
    send(publish.frame);
  }
}

const commands = {
  connect(given) {
    options = given;
    token = given.token;
    connect();
  },
  token: ({ token }) => nextToken(token),
  publish({ number, channel, data }) {
    const ack = `ack ${number}`;
    waiting.set(ack, { number, frame: { channel, data, ack } });
    flush();
  },
  join({ channel }) {
    rooms.add(channel);
    send({ join: [channel] });
  },
  leave({ channel }) {
    rooms.delete(channel);
    send({ leave: [channel] });
  },
  quit() {
    closed = true;
    // A pipe that is only paused keeps Node alive.
    process.stdin.destroy();
    if (is("quit")) process.exit(0);
    socket?.close(1000);
  },
};

lines.on("line", (line) => {
  const { command, ...rest } = JSON.parse(line);
  commands[command](rest);
});
tell("hello", { version: 1 });
