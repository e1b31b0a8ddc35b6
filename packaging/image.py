"""Writes a container image as an OCI archive: image.py PROGRAMS VERSION EPOCH FILE, where PROGRAMS contains the static
programs and the licences.

The image contains only the two programs, their licences and an account. The same input gives the same bytes.
"""
import gzip, hashlib, io, json, platform, sys, tarfile, time

USER = 65532
HEALTH = ["CMD", "/usr/bin/philotectl", "wait-ready", "--timeout", "2s"]
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def member(tar, name, content=None, mode=0o755, owner=0, epoch=0):
    info = tarfile.TarInfo(name)
    info.mode, info.uid, info.gid, info.mtime = mode, owner, owner, epoch
    if content is None:
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    else:
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def layer(programs, epoch):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name in ("etc", "etc/philote", "run", "usr", "usr/bin", "usr/share", "usr/share/licenses", "usr/share/licenses/philote"):
            member(tar, name, epoch=epoch)
        # For the admin socket.
        member(tar, "run/philote", owner=USER, epoch=epoch)
        member(tar, "etc/passwd", f"philote:x:{USER}:{USER}::/nonexistent:/nonexistent\n".encode(), 0o644, epoch=epoch)
        member(tar, "etc/group", f"philote:x:{USER}:\n".encode(), 0o644, epoch=epoch)
        for program in ("philote", "philotectl"):
            with open(f"{programs}/{program}", "rb") as file:
                member(tar, f"usr/bin/{program}", file.read(), epoch=epoch)
        for licence in ("LICENSE", "NOTICES"):
            with open(f"{programs}/{licence}", "rb") as file:
                member(tar, f"usr/share/licenses/philote/{licence}", file.read(), 0o644, epoch=epoch)
    return raw.getvalue()


def main(programs, version, epoch, path):
    epoch = int(epoch)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    raw = layer(programs, epoch)
    blobs = {}

    def blob(content, kind, **more):
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content), **more}

    config = {
        "created": created,
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": {
            "User": f"{USER}:{USER}",
            "ExposedPorts": {"6380/tcp": {}},
            # There is no writable home, so the daemon cannot create a secret; SECRET or a file must be given.
            # docker stop kills after 10 s, and ending the admin socket and the log after the drain takes up to 2 s.
            "Env": ["PATH=/usr/bin", "HOME=/nonexistent", "PHILOTE_SHUTDOWN_DRAIN=7s"],
            "Entrypoint": ["/usr/bin/philote"],
            "StopSignal": "SIGTERM",
            "Labels": {
                "org.opencontainers.image.title": "philote",
                "org.opencontainers.image.version": version,
                "org.opencontainers.image.licenses": "MIT",
            },
            # Docker's extension of the format; the times are in nanoseconds.
            "Healthcheck": {
                "Test": HEALTH,
                "Interval": 10_000_000_000,
                "Timeout": 3_000_000_000,
                "StartPeriod": 5_000_000_000,
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(raw).hexdigest()}"]},
        "history": [{"created": created, "created_by": "packaging/build --image"}],
    }
    compressed = gzip.compress(raw, mtime=0)
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": [blob(compressed, "layer.v1.tar+gzip")],
    }
    annotations = {"org.opencontainers.image.ref.name": version}
    index = {"schemaVersion": 2, "manifests": [blob(json.dumps(manifest).encode(), "manifest.v1+json", annotations=annotations)]}
    with tarfile.open(path, "w") as tar:
        member(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}', 0o644, epoch=epoch)
        member(tar, "index.json", json.dumps(index).encode(), 0o644, epoch=epoch)
        for name in ("blobs", "blobs/sha256"):
            member(tar, name, epoch=epoch)
        for digest, content in sorted(blobs.items()):
            member(tar, f"blobs/sha256/{digest}", content, 0o644, epoch=epoch)


if __name__ == "__main__":
    main(*sys.argv[1:])
