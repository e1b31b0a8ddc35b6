// Tokens signed by Python's and Node's libraries with the private half of keys that Philote has the public half of.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
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

/** What each library makes of the claims: a function of algorithm, private key or secret, and `kid`. */
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
  // It knows no EdDSA.
  jsonwebtoken: (algorithm, key, kid) =>
    algorithm === "EdDSA" ? undefined : jwt.sign(CLAIMS, key, { algorithm, ...(kid && { keyid: kid }) }),
};

/** The status that a handshake with this token is answered with. */
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

/** Puts keys into the settings and has them read. */
async function reload(philote, text) {
  await writeFile(join(philote.directory, "philote.toml"), text);
  await run(join(BINARIES, "philotectl"), ["reload"], { env: philote.settings });
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
        const publicKey = KEYS.rsa[0].publicKey.export({ type: "spki", format: "pem" });
        // What the libraries themselves refuse to sign is signed by none of them.
        const forged = await Promise.resolve().then(() => sign(algorithm, publicKey)).catch(() => undefined);
        if (forged) assert.equal(await handshake(philote, forged), 401, `${algorithm} with the public key`);
      }
    }
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    assert.equal(await handshake(philote, `${part({ alg: "none" })}.${part(CLAIMS)}.`), 401);
  });
}
