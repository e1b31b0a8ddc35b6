// A TCP proxy in front of a daemon, for tests that cut the network or replace the daemon.

import { once } from "node:events";
import { connect, createServer } from "node:net";

/** Forwards to `target`, `HOST:PORT`, which may change. `mode` is "open", "cut" (connections end) or "stalled" (nothing moves). */
export async function startProxy(t, target) {
  const pairs = new Set();
  const server = createServer({ pauseOnConnect: true }, (client) => {
    if (proxy.mode === "cut") return client.destroy();
    const pair = [client];
    pairs.add(pair);
    const join = () => {
      const [host, port] = proxy.target.split(":");
      const daemon = connect(Number(port), host);
      pair.push(daemon);
      for (const [one, other] of [[client, daemon], [daemon, client]]) {
        one.on("data", (bytes) => other.write(bytes));
        one.on("end", () => other.end());
        one.on("error", () => other.destroy());
        one.on("close", () => pairs.delete(pair) && other.end());
      }
      client.resume();
    };
    client.on("error", () => {});
    if (proxy.mode === "stalled") pair.start = join;
    else join();
  });
  const proxy = {
    target,
    mode: "open",
    cut() {
      proxy.mode = "cut";
      for (const pair of pairs) for (const socket of pair) socket.destroy();
      pairs.clear();
    },
    stall() {
      proxy.mode = "stalled";
      for (const pair of pairs) for (const socket of pair) socket.pause();
    },
    open() {
      proxy.mode = "open";
      for (const pair of pairs) {
        pair.start?.();
        pair.start = undefined;
        for (const socket of pair) socket.resume();
      }
    },
  };
  await once(server.listen(0, "127.0.0.1"), "listening");
  t.after(() => {
    proxy.cut();
    server.close();
  });
  proxy.address = `127.0.0.1:${server.address().port}`;
  return proxy;
}
