// `philotectl conformance`: the clients of packaging pass every case, and a client that is wrong on purpose fails each.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import test, { describe } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Inbox } from "./fake_server.mjs";
import { BINARIES, DEADLINE, PYTHON, startPhilote } from "./philote.mjs";

const run = promisify(execFile);
const adapter = (name) => fileURLToPath(new URL(`conformance/${name}`, import.meta.url));
const REFERENCE = [process.execPath, adapter("reference.mjs")];
/** Some cases wait for the limit of an attempt, which is 20 s in the clients of packaging. */
const SLOW = { timeout: 180_000 };
/** How many philotectl run side by side. They mostly wait. */
const AT_ONCE = 6;
/** The time limit of a case for a client that must fail: much longer than a correct one with the same timers needs. */
const WRONG_LIMIT = "12s";

async function conformance(options, program) {
  const words = ["conformance", "--json", ...options, "--", ...program];
  const { stdout, stderr, code } = await run(join(BINARIES, "philotectl"), words, { maxBuffer: 2 ** 24 }).catch((error) => error);
  assert(stdout, stderr);
  return { ...JSON.parse(stdout), code: code ?? 0 };
}

const found = ({ cases }) => cases.filter(({ passed }) => !passed).map((one) => `${one.case}: ${one.found}`);

describe("philotectl conformance", { concurrency: 2, ...SLOW }, () => {
  for (const [name, program] of Object.entries({
    "the npm client": [process.execPath, adapter("npm.mjs")],
    "the Python client": [PYTHON, "-B", adapter("python.py")],
    "a client that shares no code with them": REFERENCE,
  })) {
    test(`${name} passes all cases`, SLOW, async (t) => {
      const tested = await conformance([], program);
      assert.deepEqual(found(tested), []);
      assert.equal(tested.code, 0);
      const longest = [...tested.cases].sort((one, other) => other.seconds - one.seconds)[0];
      t.diagnostic(`${tested.passed} cases; the longest, ${longest.case}, took ${longest.seconds} s`);
    });
  }

  test("a client that is wrong on purpose fails each case, and is told the sentence that it broke", SLOW, async () => {
    const { stdout } = await run(join(BINARIES, "philotectl"), ["conformance", "--list", "--json"]);
    const cases = JSON.parse(stdout);
    assert(cases.length >= 20, stdout);
    const next = cases[Symbol.iterator]();
    const worker = async () => {
      for (const { name, sentence } of next) {
        const tested = await conformance(["--timeout", WRONG_LIMIT, "--case", name], [...REFERENCE, name]);
        const [one, ...others] = tested.cases;
        assert.equal(others.length, 0);
        assert.deepEqual([one.case, one.passed, one.sentence, tested.code], [name, false, sentence, 1], JSON.stringify(one));
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
  });
});

test("with a real server and its faults the same client does what it does in the cases", DEADLINE, async (t) => {
  const philote = await startPhilote(t, { SECRET: undefined }, ["--dev"]);
  const [, token] = await philote.says(/^token +(\S+)$/m);
  const client = spawn(REFERENCE[0], REFERENCE.slice(1), { stdio: ["pipe", "pipe", "inherit"] });
  t.after(() => client.kill());
  const events = new Inbox();
  createInterface({ input: client.stdout }).on("line", (line) => events.put(JSON.parse(line)));
  const tell = (command, more) => client.stdin.write(`${JSON.stringify({ command, ...more })}\n`);
  const post = async (path, body) => {
    const headers = { Authorization: `Bearer ${token}` };
    const answer = await fetch(`http://${philote.address}${path}`, { method: "POST", headers, body: JSON.stringify(body) });
    assert.equal(answer.status, 200, await answer.clone().text());
    return answer.json();
  };
  const state = (wanted) => events.until(({ event, state }) => event === "state" && state === wanted);
  const event = (wanted) => events.until(({ event }) => event === wanted);

  assert.equal((await event("hello")).version, 1);
  const timers = { backoff_first: 20, backoff_longest: 200, silence: 20_000, attempt: 20_000 };
  tell("connect", { url: `ws://${philote.address}/`, token, channels: ["chat"], timers });
  await state("open");
  tell("publish", { number: 1, channel: "chat", data: "own" });
  assert.equal((await event("published")).readers, 0);
  tell("publish", { number: 2, channel: "secret", data: "own" });
  assert.equal((await event("failed")).code, "forbidden");
  await post("/api/publish", { channel: "chat", data: "one" });
  assert.equal((await event("message")).data, "one");
  await post("/dev/fault", { fault: "cut" });
  assert.equal((await event("recovered")).recovered, true);
  await post("/dev/fault", { fault: "forget" });
  await post("/dev/fault", { fault: "slow" });
  assert.equal((await state("waiting")).code, 4413);
  assert.equal((await event("recovered")).recovered, false);
  await post("/api/publish", { channel: "chat", data: "of another epoch" });
  assert.equal((await event("message")).data, "of another epoch");
  await post("/dev/fault", { fault: "expire" });
  assert.equal((await state("waiting")).code, 4401);
  await event("token");
  tell("token", { token });
  assert.equal((await event("recovered")).recovered, true);
  const exited = new Promise((resolve) => client.on("exit", resolve));
  tell("quit");
  assert.equal((await state("closed")).code, 1000);
  assert.equal(await exited, 0);
});
