// A real Prometheus scrapes a running daemon: all metrics of the dashboard and the alerts exist, and their queries have results.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { promisify } from "node:util";
import WebSocket from "ws";
import { BINARIES, freePort, publish, sign, startPhilote } from "./philote.mjs";

const run = promisify(execFile);
const MONITORING = new URL("../../packaging/monitoring/", import.meta.url);
const RULES = new URL("philote.rules.yml", MONITORING).pathname;
const PATIENCE = 60_000;
/** Metrics that Prometheus adds to a scrape. */
const PROMETHEUS_OWN = ["up"];
/** Present only with a certificate, which the daemon has in tests/daemon/tls.rs. */
const WITH_TLS = ["philote_tls_certificate_expiry_timestamp_seconds"];

const dashboard = JSON.parse(await readFile(new URL("grafana-dashboard.json", MONITORING)));
const queries = dashboard.panels.flatMap((panel) => panel.targets.map(({ expr }) => expr));
const alerts = [...(await readFile(RULES, "utf8")).matchAll(/^ +expr: (.*)$/gm)].map(([, expr]) => expr);

/** The metrics in an expression: names before labels, a range or an operator that are not functions. */
const metrics = (text) => [...text.matchAll(/\b(?:philote|process)_[a-z_]+\b|\bup\b/g)].map(([name]) => name);

async function until(what, attempt) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const result = await attempt().catch((error) => error);
    if (result !== undefined && !(result instanceof Error)) return result;
    assert(Date.now() < deadline, `never: ${what}: ${result}`);
    await pause(100);
  }
}

/** Starts Prometheus with the shipped rules. Returns a function that queries it. */
async function startPrometheus(t, philote, target) {
  const config = join(philote.directory, "prometheus.yml");
  await writeFile(
    config,
    `global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [${JSON.stringify(RULES)}]
scrape_configs: [{job_name: philote, static_configs: [{targets: [${JSON.stringify(target)}]}]}]
`,
  );
  const address = `127.0.0.1:${await freePort()}`;
  const storage = join(philote.directory, "prometheus");
  const prometheus = spawn(
    "prometheus",
    [`--config.file=${config}`, `--storage.tsdb.path=${storage}`, `--web.listen-address=${address}`],
    { stdio: ["ignore", "ignore", "pipe"] },
  );
  let output = "";
  prometheus.stderr.on("data", (chunk) => (output += chunk));
  const exited = once(prometheus, "exit");
  t.after(async () => {
    prometheus.kill("SIGTERM");
    await exited;
  });
  const ask = async (path) => {
    const answer = await fetch(`http://${address}/api/v1/${path}`);
    const body = await answer.json();
    assert.equal(body.status, "success", JSON.stringify(body));
    return body.data;
  };
  await until(`Prometheus answers: ${output}`, () => ask("status/buildinfo"));
  return { ask, query: (expr) => ask(`query?query=${encodeURIComponent(expr)}`).then(({ result }) => result) };
}

test("Prometheus finds every metric of the dashboard and the alerts", { timeout: 3 * PATIENCE }, async (t) => {
  const natsPort = await freePort();
  const nats = spawn("/usr/sbin/nats-server", ["-a", "127.0.0.1", "-p", String(natsPort)], { stdio: "ignore" });
  t.after(() => nats.kill("SIGTERM"));
  const philote = await startPhilote(t, {
    PHILOTE_METRICS_LISTEN: "127.0.0.1:0",
    PHILOTE_CLUSTER_SERVERS: `nats://127.0.0.1:${natsPort}`,
  });
  await until("the link to NATS", async () => {
    const { stdout } = await run(join(BINARIES, "philotectl"), ["status", "--json"], { env: philote.settings });
    return JSON.parse(stdout).cluster.up || undefined;
  });
  const target = await until("the address of the metrics", async () => /the metrics are at http:\/\/(\S+)\/metrics/.exec(philote.output)?.[1]);

  // One of everything: a reader, a closed one, a refused one, a message, a reload, and a refused reload.
  const open = async (token) => {
    const socket = new WebSocket(`ws://${philote.address}/?auth=${token}`);
    await once(socket, "open");
    return socket;
  };
  const token = sign(philote, { read: ["c"], write: ["c"] });
  const reader = await open(token);
  t.after(() => reader.terminate());
  const follower = new WebSocket(`ws://${philote.address}/`, "philote.v1");
  t.after(() => follower.terminate());
  await once(follower, "open");
  const followed = new Promise((resolve) => follower.on("message", (frame) => JSON.parse(frame).presence && resolve()));
  follower.send(JSON.stringify({ auth: sign(philote, { read: ["c"], presence: true, sub: "ann" }) }));
  follower.send(JSON.stringify({ presence: ["c"], follow: true }));
  await followed;
  const gone = await open(token);
  gone.close();
  await once(gone, "close");
  await assert.rejects(open("bad"));
  await publish(philote, "c", "hello");
  const ctl = (...args) => run(join(BINARIES, "philotectl"), args, { env: philote.settings });
  await ctl("reload");

  const text = await (await fetch(`http://${target}/metrics`)).text();
  const bySocket = await run("curl", ["-sS", "--unix-socket", philote.settings.PHILOTE_ADMIN_SOCKET, "http://philote/v1/metrics"]);
  const names = (exposition) => [...exposition.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name);
  assert.deepEqual(names(bySocket.stdout), names(text));
  for (const secret of [philote.secret, "eyJ"]) assert(!text.includes(secret), "a secret in the metrics");
  assert.equal((await fetch(`http://${target}/`)).status, 404);
  assert.equal((await fetch(`http://${target}/metrics`, { method: "POST" })).status, 405);

  // The metrics have the values of what happened.
  const value = (line) => Number(new RegExp(`^${line.replace(/[{}"]/g, "\\$&")} (.*)$`, "m").exec(text)?.[1]);
  for (const [line, expected] of [
    ["philote_connections", 2],
    ['philote_connections_by_transport{transport="websocket"}', 2],
    ['philote_connections_by_transport{transport="events"}', 0],
    ["philote_presence_channels", 1],
    ["philote_presence_followers", 1],
    ["philote_presence_subjects", 1],
    ["philote_cluster_link_up", 1],
    ["philote_cluster_nodes", 1],
    ["philote_connections_accepted_total", 3],
    ['philote_connections_closed_total{reason="client_closed"}', 1],
    ['philote_requests_refused_total{reason="token_malformed"}', 1],
    // The request of presence is a message, too.
    ["philote_messages_received_total", 2],
    ["philote_deliveries_total", 2],
    ["philote_queue_messages_count", 2],
    ["philote_channels", 1],
    ['philote_reloads_total{result="applied"}', 1],
    ["philote_last_reload_successful", 1],
  ]) {
    assert.equal(value(line), expected, line);
  }

  const promtool = spawn("promtool", ["check", "metrics"], { stdio: ["pipe", "inherit", "inherit"] });
  promtool.stdin.end(text);
  assert.equal((await once(promtool, "exit"))[0], 0, "promtool check metrics");
  await run("promtool", ["check", "rules", RULES]);

  const exposed = new Set([...text.matchAll(/^([a-z_]+)/gm)].map(([name]) => name).concat(PROMETHEUS_OWN, WITH_TLS));
  assert(queries.length > 20 && alerts.length > 5);
  for (const expr of [...queries, ...alerts]) {
    assert(metrics(expr).length > 0, expr);
    for (const name of metrics(expr)) assert(exposed.has(name), `${name} of ${expr}`);
  }

  const prometheus = await startPrometheus(t, philote, target);
  for (const query of queries) {
    const expr = query
      .replaceAll("$job", "philote")
      .replaceAll("$instance", ".*")
      .replaceAll("$__rate_interval", "1m");
    const found = await until(`data for ${expr}`, async () => {
      const result = await prometheus.query(expr);
      return result.length > 0 ? result : undefined;
    });
    for (const { value: [, number] } of found) assert(!Number.isNaN(Number(number)), `${expr} is ${number}`);
  }
  // Nothing is wrong, so no alert is pending or firing, and every alert can be evaluated.
  for (const expr of alerts) await prometheus.query(expr);
  assert.deepEqual((await prometheus.ask("alerts")).alerts, []);
  await writeFile(join(philote.directory, "philote.toml"), "nonsense = 1\n");
  await assert.rejects(ctl("reload"));
  await until("an alert", async () => (await prometheus.ask("alerts")).alerts.find(({ labels }) => labels.alertname === "PhiloteReloadRefused"));
});
