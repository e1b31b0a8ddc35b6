// Chromium over wss, with a certificate of a trusted authority; the certificate is replaced under traffic.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { join } from "node:path";
import test from "node:test";
import { promisify } from "node:util";
import WebSocket from "ws";
import { makeAuthority, trustingHome } from "./authority.mjs";
import { BINARIES, DEADLINE, openBrowser, scratch, sign, startPhilote } from "./philote.mjs";

const run = promisify(execFile);

/** In the page: two sockets. One sends numbers and waits until the other has received each, until it is stopped. */
function talk(url) {
  const open = () =>
    new Promise((resolve, reject) => {
      const socket = new WebSocket(url);
      socket.onopen = () => resolve(socket);
      socket.onclose = ({ code }) => reject(new Error(`closed with ${code} before it was open`));
    });
  window.talk = { sent: 0, received: [], closed: [], stop: false };
  const { talk } = window;
  return Promise.all([open(), open()]).then(([writer, reader]) => {
    for (const socket of [writer, reader]) socket.onclose = ({ code }) => talk.closed.push(code);
    const next = () => writer.send(JSON.stringify({ channel: "c", data: String(talk.sent++) }));
    talk.ended = new Promise((resolve) => {
      reader.onmessage = ({ data }) => {
        talk.received.push(JSON.parse(data).data);
        if (talk.stop) resolve();
        else next();
      };
    });
    next();
  });
}

/** Waits until the page has sent this number of further messages. */
const afterMore = (page, count) =>
  page.evaluate(() => window.talk.sent).then((sent) => page.waitForFunction((least) => window.talk.sent >= least, sent + count));

/** The serial number of the certificate that the server shows this browser at its first connection. */
async function serialSeenBy(browser, url) {
  const context = await browser.newContext();
  const page = await context.newPage();
  const devtools = await context.newCDPSession(page);
  await devtools.send("Network.enable");
  const answer = await page.goto(`${url}/health`);
  assert.deepEqual([answer.status(), (await answer.securityDetails()).protocol], [200, "TLS 1.3"]);
  const { tableNames } = await devtools.send("Network.getCertificate", { origin: url });
  await context.close();
  return new X509Certificate(Buffer.from(tableNames[0], "base64")).serialNumber;
}

test("Chromium stays connected over wss while the certificate is replaced twice", DEADLINE, async (t) => {
  const directory = await scratch(t);
  const authority = await makeAuthority(directory);
  const pair = ["certificate.pem", "key.pem"].map((name) => join(directory, name));
  const issue = () => authority.issue(["localhost", "127.0.0.1"], ...pair);
  const first = await issue();
  const philote = await startPhilote(t, { PHILOTE_TLS_CERTIFICATE: pair[0], PHILOTE_TLS_KEY: pair[1] });
  const page = await openBrowser(t, await trustingHome(directory, authority));
  const host = philote.address.replace("127.0.0.1", "localhost");
  const browser = page.context().browser();
  const url = `wss://${host}/?auth=${sign(philote, { read: ["c"], write: ["c"] })}`;

  /** The serial number of the certificate that another client's WebSocket gets; then the client publishes a message. */
  const serialSeenByOther = async () => {
    const socket = new WebSocket(url, { ca: authority.ca });
    const upgraded = once(socket, "upgrade");
    await once(socket, "open");
    const [{ socket: tls }] = await upgraded;
    const { serialNumber } = tls.getPeerCertificate();
    socket.close();
    await once(socket, "close");
    return serialNumber;
  };

  await page.evaluate(talk, url);
  await afterMore(page, 50);
  assert.deepEqual([await serialSeenBy(browser, `https://${host}`), await serialSeenByOther()], [first, first]);

  const second = await issue();
  philote.signal("SIGHUP");
  await philote.says(/reloaded: 1 applied/);
  await afterMore(page, 50);
  assert.deepEqual([await serialSeenBy(browser, `https://${host}`), await serialSeenByOther()], [second, second]);

  const third = await issue();
  const { stdout } = await run(join(BINARIES, "philotectl"), ["reload"], { env: philote.settings });
  assert.match(stdout, /tls\.certificate/);
  await afterMore(page, 50);
  assert.deepEqual([await serialSeenBy(browser, `https://${host}`), await serialSeenByOther()], [third, third]);
  assert.equal(new Set([first, second, third]).size, 3);

  const { sent, received, closed } = await page.evaluate(async () => {
    window.talk.stop = true;
    await window.talk.ended;
    return window.talk;
  });
  assert.deepEqual(closed, [], "no connection was closed");
  assert.deepEqual(received, Array.from({ length: sent }, (_, number) => String(number)), "nothing was lost");

  // The browser trusts only its authority: with another certificate a new client cannot connect. (A client that connected
  // before may resume its TLS session, for which no certificate is sent.)
  const stranger = await makeAuthority(directory, "stranger");
  await stranger.issue(["localhost", "127.0.0.1"], ...pair);
  await run(join(BINARIES, "philotectl"), ["reload"], { env: philote.settings });
  const fresh = await browser.newPage();
  const code = await fresh.evaluate(
    (url) => new Promise((resolve) => (new WebSocket(url).onclose = ({ code }) => resolve(code))),
    url,
  );
  assert.equal(code, 1006);
});
