// Bodies as HTTP libraries of backends send them: too large ones, whose client gets the 413, and streamed ones.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { request } from "node:http";
import { Readable } from "node:stream";
import test from "node:test";
import { DEADLINE, PYTHON, sign, startPhilote } from "./philote.mjs";

/** Over the API's limit of 1 MiB, in bytes; the server may read all of it after the rejection. */
const SIZES = [1_100_000, 5_000_000, 20_000_000];

/** Each size so often that a race would show. */
const TIMES = 5;

const URLLIB = `
import sys, urllib.error, urllib.request
url, token, sizes = sys.argv[1], sys.argv[2], sys.argv[3:]
for size in map(int, sizes):
    for body in (b"x" * size, iter([b"x" * 65536] * (size // 65536 + 1))):
        question = urllib.request.Request(url, body, {"Authorization": "Bearer " + token})
        if not isinstance(body, bytes):
            question.add_header("Transfer-Encoding", "chunked")
        try:
            print(urllib.request.urlopen(question).status)
        except urllib.error.HTTPError as error:
            print(error.code, error.read().decode())
`;

/** The output of Python, one line for each request. */
function python(...args) {
  return new Promise((resolve, reject) =>
    execFile(PYTHON, ["-c", URLLIB, ...args], (error, stdout, stderr) =>
      error ? reject(new Error(stderr)) : resolve(stdout.trim().split("\n")),
    ),
  );
}

test("Python's urllib and Node's fetch get the 413 for a large body, and no reset", DEADLINE, async (t) => {
  const philote = await startPhilote(t);
  const url = `http://${philote.address}/api/publish`;
  const token = sign(philote, { api: true });
  const headers = { Authorization: `Bearer ${token}` };
  const sentence = "the body may have 1048576 bytes at most";
  for (let time = 0; time < TIMES; time++) {
    for (const size of SIZES) {
      const answer = await fetch(url, { method: "POST", headers, body: "x".repeat(size) });
      assert.equal(answer.status, 413, `${size} bytes`);
      assert.equal((await answer.json()).message, sentence);
    }
    for (const line of await python(url, token, ...SIZES)) {
      assert(line.startsWith("413 ") && line.includes(sentence), line);
    }
  }
});

test("a client that waits for 100 Continue is refused before it has sent the body", DEADLINE, async (t) => {
  const philote = await startPhilote(t);
  const ask = (length) =>
    request(`http://${philote.address}/api/publish`, {
      method: "POST",
      headers: { Authorization: `Bearer ${sign(philote, { api: true })}`, Expect: "100-continue", "Content-Length": length },
    });
  const large = ask(5_000_000);
  large.on("continue", () => assert.fail("the server asked for the body"));
  large.flushHeaders();
  const [answer] = await once(large, "response");
  assert.equal(answer.statusCode, 413);
  large.destroy();

  const body = JSON.stringify({ channel: "c", data: "x" });
  const small = ask(body.length);
  small.flushHeaders();
  await once(small, "continue");
  small.end(body);
  assert.equal((await once(small, "response"))[0].statusCode, 200);
});

test("streamed bodies, which are chunked, are accepted", DEADLINE, async (t) => {
  const philote = await startPhilote(t);
  const url = `http://${philote.address}/api/publish`;
  const token = sign(philote, { api: true });
  const body = JSON.stringify(Array.from({ length: 500 }, (_, n) => ({ channel: "c", data: `${n}` })));
  const pieces = body.match(/.{1,1000}/g);
  const answer = await fetch(url, {
    method: "POST",
    headers: { Authorization: `Bearer ${token}` },
    body: Readable.from(pieces.map((piece) => Buffer.from(piece))),
    duplex: "half",
  });
  assert.equal(answer.status, 200, await answer.clone().text());
  assert.equal((await answer.json()).published.length, 500);

  const curl = await new Promise((resolve, reject) => {
    const options = ["-sS", "-X", "POST", "-H", `Authorization: Bearer ${token}`, "-T", "-", "-w", "%{http_code}", "-o", "/dev/null"];
    const child = execFile("curl", [...options, url], (error, stdout) => (error ? reject(error) : resolve(stdout)));
    child.stdin.end(body);
  });
  assert.equal(curl, "200");
});
