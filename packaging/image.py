"""Writes a container image as an OCI archive: image.py DIRECTORY VERSION EPOCH FILE, where DIRECTORY contains the static
programs and the licences, for each processor in a directory with its name, such as x86_64. An engine picks the one for its
machine.

The image contains only the two programs, their licences and an account. The same input gives the same bytes.
"""
import gzip, hashlib, io, json, os, sys, tarfile, time

USER = 65532
HEALTH = ["CMD", "/usr/bin/philotectl", "wait-ready", "--timeout", "2s"]
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


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


class Blobs(dict):
    """The files of the archive, by their digests."""

    def add(self, content, kind, **more):
        digest = hashlib.sha256(content).hexdigest()
        self[digest] = content
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content), **more}


def image(blobs, programs, architecture, version, epoch):
    """Adds the image for one architecture, and returns its descriptor."""
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    raw = layer(programs, epoch)
    config = {
        "created": created,
        "architecture": architecture,
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
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blobs.add(json.dumps(config).encode(), "config.v1+json"),
        "layers": [blobs.add(gzip.compress(raw, mtime=0), "layer.v1.tar+gzip")],
    }
    platform = {"os": "linux", "architecture": architecture}
    return blobs.add(json.dumps(manifest).encode(), "manifest.v1+json", platform=platform)


def main(directory, version, epoch, path):
    epoch, blobs = int(epoch), Blobs()
    images = [
        image(blobs, f"{directory}/{machine}", ARCHITECTURES[machine], version, epoch) for machine in sorted(os.listdir(directory))
    ]
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": images}
    # The reference names the index of all architectures; podman and Docker take the image's name from containerd's annotation.
    annotations = {"io.containerd.image.name": f"docker.io/library/philote:{version}", "org.opencontainers.image.ref.name": version}
    top = {"schemaVersion": 2, "manifests": [blobs.add(json.dumps(index).encode(), "index.v1+json", annotations=annotations)]}
    with tarfile.open(path, "w") as tar:
        member(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}', 0o644, epoch=epoch)
        member(tar, "index.json", json.dumps(top).encode(), 0o644, epoch=epoch)
        for name in ("blobs", "blobs/sha256"):
            member(tar, name, epoch=epoch)
        for digest, content in sorted(blobs.items()):
            member(tar, f"blobs/sha256/{digest}", content, 0o644, epoch=epoch)


if __name__ == "__main__":
    main(*sys.argv[1:])
