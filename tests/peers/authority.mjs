// A certificate authority for a test, made with openssl and trusted by Chromium.

import { execFile } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { mkdir, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);
const NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"];

/** Creates an authority in a directory. `ca` is its certificate in PEM. */
export async function makeAuthority(directory, name = "authority") {
  const [file, key] = ["pem", "key"].map((kind) => join(directory, `${name}.${kind}`));
  const may = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"];
  await run("openssl", ["req", "-x509", ...NEW_KEY, "-subj", `/CN=Philote test ${name}`, ...may, "-keyout", key, "-out", file]);
  return {
    file,
    ca: await readFile(file, "utf8"),
    /** Writes a complete certificate for these names and its key to two files. Returns its serial number. */
    async issue(names, certificateFile, keyFile) {
      const alternatives = names.map((name) => (/^[\d.]+$/.test(name) ? `IP:${name}` : `DNS:${name}`));
      const end = ["basicConstraints=critical,CA:FALSE", "extendedKeyUsage=serverAuth", `subjectAltName=${alternatives}`];
      const extensions = end.flatMap((extension) => ["-addext", extension]);
      const made = [`${certificateFile}.new`, `${keyFile}.new`];
      const signed = ["-CA", file, "-CAkey", key, "-out", made[0], "-keyout", made[1]];
      await run("openssl", ["req", "-x509", ...NEW_KEY, "-subj", `/CN=${names[0]}`, ...extensions, ...signed]);
      await rename(made[0], certificateFile);
      await rename(made[1], keyFile);
      return new X509Certificate(await readFile(certificateFile)).serialNumber;
    },
  };
}

/** Creates a home directory in which Chromium trusts an authority. */
export async function trustingHome(directory, authority) {
  const database = join(directory, ".pki", "nssdb");
  await mkdir(database, { recursive: true });
  await run("certutil", ["-d", `sql:${database}`, "-N", "--empty-password"]);
  await run("certutil", ["-d", `sql:${database}`, "-A", "-n", "authority", "-t", "C,,", "-i", authority.file]);
  return directory;
}
