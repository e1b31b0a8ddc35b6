// schemathesis tests the API against its own document: every route, good and bad requests, all checks.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import test from "node:test";
import WebSocket from "ws";
import { sign, startPhilote } from "./philote.mjs";

const { PHILOTE_SCHEMATHESIS: SCHEMATHESIS } = process.env;
assert(SCHEMATHESIS, "this test is run by tests/run, which sets PHILOTE_SCHEMATHESIS");

/** The time limit of one run, in milliseconds. */
const PATIENCE = 300_000;
/** The number of generated cases for each operation besides the boundary cases; the seed is fixed. */
const EXAMPLES = ["--max-examples", "40", "--seed", "1"];

/** Forwards to the daemon, and ends a stream of events, which has no end, behind its first chunk. Returns its address. */
async function startStreamEnder(t, philote) {
  const server = createServer((client) => {
    const [host, port] = philote.address.split(":");
    const daemon = connect(Number(port), host);
    let answer = "";
    client.on("data", (bytes) => {
      answer = "";
      daemon.write(bytes);
    });
    client.on("end", () => daemon.end());
    daemon.on("data", (bytes) => {
      client.write(bytes);
      answer = (answer + bytes.toString("latin1")).slice(0, 10_000);
      const [head, body] = answer.split(/\r\n\r\n(.*)/s);
      if (/^content-type: (application\/x-ndjson|text\/event-stream)\r$/im.test(head) && body?.endsWith("\r\n")) {
        client.end("0\r\n\r\n");
        daemon.destroy();
      }
    });
    daemon.on("end", () => client.end());
    for (const [one, other] of [[client, daemon], [daemon, client]]) one.on("error", () => other.destroy());
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.after(() => server.close());
  return `127.0.0.1:${server.address().port}`;
}

/** Runs schemathesis with a document against the daemon; returns its exit status and its output. */
async function check(philote, document, ...options) {
  const file = join(philote.directory, "openapi.json");
  await writeFile(file, JSON.stringify(document));
  const arguments_ = [
    ...["run", file, "--url", `http://${philote.behind}/`, "--checks", "all", ...EXAMPLES, "--no-color"],
    ...["--header", `Authorization: Bearer ${sign(philote, { api: true, sub: "backend" })}`],
    // The speed of this machine says nothing about the API.
    ...["--suppress-health-check", "all", "--request-timeout", "30", "--generation-database", "none"],
    ...options,
  ];
  return new Promise((resolve) =>
    execFile(SCHEMATHESIS, arguments_, { cwd: philote.directory, timeout: PATIENCE }, (error, stdout, stderr) =>
      resolve({ status: error ? (error.code ?? error.signal) : 0, output: stdout + stderr }),
    ),
  );
}

test("schemathesis accepts the API, and rejects a wrong document", { timeout: 2 * PATIENCE }, async (t) => {
  const philote = await startPhilote(t, { PHILOTE_HISTORY_MESSAGES: "10" });
  philote.behind = await startStreamEnder(t, philote);
  // A client that the document's examples name, so that her rows are checked as well.
  const token = sign(philote, { read: ["chat"], write: ["chat"], sub: "alice" });
  const alice = new WebSocket(`ws://${philote.address}/?auth=${token}`);
  t.after(() => alice.terminate());
  await once(alice, "open");

  const answer = await fetch(`http://${philote.address}/api/openapi.json`);
  const document = await answer.json();
  const operations = Object.values(document.paths).flatMap(Object.keys).length;
  const { status, output } = await check(philote, document);
  t.diagnostic(output.match(/\d+ generated, .*/)?.[0] ?? output);
  assert.equal(status, 0, output);
  assert(output.includes(`Operations:       ${operations} selected / ${operations} total`), output);
  assert(!output.includes("Authorization: Bearer ey"), "a token in the output");
  assert.equal(alice.readyState, WebSocket.OPEN, "no request was meant to disconnect her");

  for (const [path, change] of [
    ["/api/channels", ({ components }) => (components.schemas.Channels.properties.next = { type: "integer" })],
    ["/api/info", ({ paths }) => delete paths["/api/info"].get.responses["401"]],
    ["/api/events", ({ paths }) => delete paths["/api/events"].get.responses["200"].content["application/x-ndjson"]],
    ["/api/disconnect", ({ components }) => (components.schemas.Subject.maxLength = 1000)],
  ]) {
    const untrue = structuredClone(document);
    change(untrue);
    const found = await check(philote, untrue, "--include-path", path);
    assert.equal(found.status, 1, `${path}: ${found.output}`);
  }
});
