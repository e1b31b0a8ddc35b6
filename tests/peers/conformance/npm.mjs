// The adapter of `philotectl conformance` for the client of packaging/npm: lines of JSON on standard input and output.

import { createInterface } from "node:readline";
import WebSocket from "ws";
import { Philote } from "../../../packaging/npm/philote.js";

const tell = (event, more) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`);
const lines = createInterface({ input: process.stdin });
/** Calls of `token()` that wait for a line with a token. */
const asked = [];
let philote;

const commands = {
  connect({ url, token: first, channels, timers }) {
    const token = () => {
      if (first === undefined) {
        tell("token");
        return new Promise((answer) => asked.push(answer));
      }
      const given = first;
      first = undefined;
      return given;
    };
    const { backoff_first, backoff_longest, silence } = timers;
    philote = new Philote(url, { token, json: false, backoff: [backoff_first, backoff_longest], probe: silence, WebSocket });
    for (const channel of channels) philote.on(channel, () => {});
    philote.when("state", ({ state, code, reason }) => tell("state", { state, code, reason }));
    philote.when("message", ({ channel, data }) => tell("message", { channel, data }));
    philote.when("recovered", (detail) => tell("recovered", detail));
    philote.when("error", ({ message }) => tell("error", { message }));
  },
  token: ({ token }) => asked.shift()(token),
  publish: ({ number, channel, data }) =>
    philote.publish(channel, data).then(
      (readers) => tell("published", { number, readers }),
      ({ code, message }) => tell("failed", { number, code, message }),
    ),
  join: ({ channel }) => philote.join(channel),
  leave: ({ channel }) => philote.leave(channel),
  quit() {
    philote?.close();
    // A pipe that is only paused keeps Node alive.
    process.stdin.destroy();
  },
};

lines.on("line", (line) => {
  const { command, ...rest } = JSON.parse(line);
  commands[command](rest);
});
lines.on("close", () => philote?.close());
tell("hello", { version: 1 });
