// A PostgreSQL server for one test, on a Unix socket in its own directory. It ends with the test.

import assert from "node:assert/strict";
import { execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { chown, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";

/** Debian keeps the programs of each version in a directory outside PATH. */
function programs() {
  const versions = readdirSync("/usr/lib/postgresql").map(Number).sort((a, b) => b - a);
  return `/usr/lib/postgresql/${versions[0]}/bin`;
}

/** PostgreSQL refuses to run as root; the package has created a user. */
function user() {
  if (process.getuid() !== 0) return {};
  const id = (option) => Number(execFileSync("id", [option, "postgres"], { encoding: "utf8" }));
  return { uid: id("-u"), gid: id("-g") };
}

/** Starts a server. `where` connects to its database; `query` runs SQL and returns the rows as text; `until` repeats a query. */
export async function startPostgres(t) {
  const [bin, as] = [programs(), user()];
  const directory = await mkdtemp(join(tmpdir(), "philote-postgres-"));
  if (as.uid) await chown(directory, as.uid, as.gid);
  const data = join(directory, "data");
  const options = { ...as, cwd: directory };
  await promisify(execFile)(
    join(bin, "initdb"),
    ["--pgdata", data, "--username=philote", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"],
    options,
  );
  const settings = ["listen_addresses=", `unix_socket_directories=${directory}`, "fsync=off"];
  const server = spawn(join(bin, "postgres"), ["-D", data, ...settings.flatMap((one) => ["-c", one])], {
    ...options,
    stdio: ["ignore", "ignore", "pipe"],
  });
  const exited = once(server, "exit");
  t.after(async () => {
    // Ends without waiting for its clients.
    server.kill("SIGINT");
    await exited;
    await rm(directory, { recursive: true });
  });
  let log = "";
  await new Promise((resolve, reject) => {
    server.stderr.on("data", (chunk) => {
      log += chunk;
      if (log.includes("ready to accept connections")) resolve();
    });
    exited.then(() => reject(new Error(`PostgreSQL has ended:\n${log}`)));
  });

  const where = `host=${directory} user=philote dbname=postgres`;
  const psql = ["-XqAt", "--set=ON_ERROR_STOP=1", `--dbname=${where}`];
  const query = async (sql) => (await promisify(execFile)(join(bin, "psql"), [...psql, "--command", sql])).stdout.trim();
  return {
    where,
    query,
    /** Waits until the answer of a query is `expected`. */
    async until(sql, expected) {
      for (const deadline = Date.now() + 30_000; ; await pause(20)) {
        const found = await query(sql);
        if (found === expected) return;
        assert(Date.now() < deadline, `${sql}: ${found}, not ${expected}; the log: ${log}`);
      }
    },
    /** Opens a session, to whose `run` each call adds SQL; `end` waits for the end of what was added. */
    session() {
      const child = spawn(join(bin, "psql"), psql, { stdio: ["pipe", "pipe", "inherit"] });
      const ended = once(child, "exit");
      t.after(() => child.kill());
      const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
      return {
        /** Runs SQL, and returns when it is done. */
        async run(sql) {
          child.stdin.write(`${sql}\n\\echo done\n`);
          for (;;) {
            const { value, done } = await lines.next();
            assert(!done, `psql has ended at: ${sql}`);
            if (value === "done") return;
          }
        },
        async end() {
          child.stdin.end();
          assert.deepEqual(await ended, [0, null]);
        },
      };
    },
  };
}
