// Tokens signed by Python's and Node's libraries with private keys whose public keys Philote has.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHmac, generateKeyPairSync } from "node:crypto";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import test from "node:test";
import { promisify } from "node:util";
import { SignJWT } from "jose";
import jwt from "jsonwebtoken";
import WebSocket from "ws";
import { BINARIES, DEADLINE, PYTHON, startPhilote } from "./philote.mjs";

const run = promisify(execFile);

const KEYS = {
  rsa: [generateKeyPairSync("rsa", { modulusLength: 2048 }), ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]],
  p256: [generateKeyPairSync("ec", { namedCurve: "P-256" }), ["ES256"]],
  p384: [generateKeyPairSync("ec", { namedCurve: "P-384" }), ["ES384"]],
  ed: [generateKeyPairSync("ed25519"), ["EdDSA"]],
};
const SECRETS = ["HS256", "HS384", "HS512"];
const CLAIMS = { read: ["c"], write: ["c"], sub: "alice", exp: 4_000_000_000 };
const PRIVATE = { type: "pkcs8", format: "pem" };

/** How each library signs: a function of the claims' algorithm, the private key or secret, and the `kid`. */
const SIGNERS = {
  PyJWT: async (algorithm, key, kid) => {
    const script = `import json, sys, jwt
algorithm, key, kid, claims = json.load(sys.stdin)
print(jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid} if kid else None))`;
    const python = run(PYTHON, ["-c", script]);
    const secret = typeof key === "string" ? key : key.export(PRIVATE);
    python.child.stdin.end(JSON.stringify([algorithm, secret, kid ?? null, CLAIMS]));
    return (await python).stdout.trim();
  },
  jose: (algorithm, key, kid) =>
    new SignJWT(CLAIMS).setProtectedHeader({ alg: algorithm, ...(kid && { kid }) }).sign(
      typeof key === "string" ? new TextEncoder().encode(key) : key,
    ),
  // This library does not support EdDSA.
  jsonwebtoken: (algorithm, key, kid) =>
    algorithm === "EdDSA" ? undefined : jwt.sign(CLAIMS, key, { algorithm, ...(kid && { keyid: kid }) }),
};

/** The status of the answer to a handshake with this token. */
const handshake = (philote, token) =>
  new Promise((resolve) => {
    const socket = new WebSocket(`ws://${philote.address}/`, { headers: { Authorization: `Bearer ${token}` } });
    socket.on("open", () => {
      socket.close();
      resolve(101);
    });
    socket.on("unexpected-response", (request, { statusCode }) => {
      request.destroy();
      resolve(statusCode);
    });
    socket.on("error", () => {});
  });

/** Writes keys to the settings and reloads them. */
async function reload(philote, text) {
  await writeFile(join(philote.directory, "philote.toml"), text);
  await run(join(BINARIES, "philotectl"), ["reload"], { env: philote.settings });
}

const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

/** A token that no library would sign: this header, signed by HMAC with public data of a key. */
function forge(header, secret) {
  const text = `${part(header)}.${part(CLAIMS)}`;
  return `${text}.${createHmac(`sha${header.alg.slice(2)}`, secret).update(text).digest("base64url")}`;
}

for (const [library, sign] of Object.entries(SIGNERS)) {
  test(`${library} signs with every algorithm`, DEADLINE, async (t) => {
    const philote = await startPhilote(t);
    const jwks = { keys: [] };
    for (const [name, [{ publicKey }]] of Object.entries(KEYS)) {
      await writeFile(join(philote.directory, `${name}.pem`), publicKey.export({ type: "spki", format: "pem" }));
      jwks.keys.push({ ...publicKey.export({ format: "jwk" }), kid: name });
    }
    await writeFile(join(philote.directory, "jwks.json"), JSON.stringify(jwks));
    const files = Object.keys(KEYS).map((name) => `"${name}.pem"`);
    const settings = [
      [undefined, `[auth]\npublic_keys = [${files}]\n`],
      [(name) => name, `[auth]\njwks_file = "jwks.json"\n`],
    ];
    for (const [kid, text] of settings) {
      await reload(philote, text);
      for (const [name, [{ privateKey }, algorithms]] of Object.entries(KEYS)) {
        for (const algorithm of algorithms) {
          const token = await sign(algorithm, privateKey, kid?.(name));
          if (token) assert.equal(await handshake(philote, token), 101, `${algorithm} by ${text}`);
        }
      }
      for (const algorithm of SECRETS) {
        assert.equal(await handshake(philote, await sign(algorithm, philote.secret)), 101, algorithm);
        assert.equal(await handshake(philote, forge({ alg: algorithm }, philote.secret)), 101, algorithm);
        for (const [name, [{ publicKey }]] of Object.entries(KEYS)) {
          for (const known of [publicKey.export({ type: "spki", format: "pem" }), JSON.stringify(publicKey.export({ format: "jwk" }))]) {
            const forged = forge({ alg: algorithm, ...(kid && { kid: name }) }, known);
            assert.equal(await handshake(philote, forged), 401, `${algorithm} with the public key ${name}`);
          }
        }
      }
    }
    for (const alg of ["none", "None", "NONE", "nOnE"]) {
      for (const signature of ["", "AAAA"]) {
        assert.equal(await handshake(philote, `${part({ alg })}.${part(CLAIMS)}.${signature}`), 401, alg);
      }
    }
  });
}

test("a JWKS rotates while clients are connected", DEADLINE, async (t) => {
  const philote = await startPhilote(t, { PHILOTE_SHUTDOWN_DRAIN: "1s" });
  const jwks = async (...names) => {
    const keys = names.map((name) => ({ ...KEYS[name][0].publicKey.export({ format: "jwk" }), kid: name }));
    await writeFile(join(philote.directory, "jwks.json"), JSON.stringify({ keys }));
    await reload(philote, `[auth]\njwks_file = "jwks.json"\n`);
  };
  const open = async (sign, algorithm, name) => {
    const token = await sign(algorithm, KEYS[name][0].privateKey, name);
    const socket = new WebSocket(`ws://${philote.address}/`, { headers: { Authorization: `Bearer ${token}` } });
    await once(socket, "open");
    return socket;
  };
  await jwks("rsa");
  const old = await open(SIGNERS.PyJWT, "RS256", "rsa");
  await jwks("rsa", "p256");
  const renewed = await open(SIGNERS.jose, "ES256", "p256");
  const says = async (from, to, data) => {
    const heard = once(to, "message");
    from.send(JSON.stringify({ channel: "c", data }));
    assert.equal(JSON.parse((await heard)[0]).data, data);
  };
  await says(old, renewed, "both are in");
  const closed = once(old, "close");
  await jwks("p256");
  assert.equal((await closed)[0], 4401);
  assert.equal(await handshake(philote, await SIGNERS.PyJWT("RS256", KEYS.rsa[0].privateKey, "rsa")), 401);
  const another = await open(SIGNERS.PyJWT, "ES256", "p256");
  await says(another, renewed, "still here");
  for (const socket of [renewed, another]) socket.close();
});
