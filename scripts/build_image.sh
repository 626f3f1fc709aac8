#!/usr/bin/env bash
# Build the image without a Docker engine (buildah), on a machine without a container registry, and run it
# once (podman + runc): three checks, then everything is removed. Needs root and Debian's packages
# buildah, podman, runc, mmdebstrap. With a Docker engine: `docker build -t trivet .` does it all.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:-/var/tmp/trivet-image}
store="--root $work/store --runroot $work/run"
export BUILDAH_ISOLATION=chroot
mkdir -p "$work"
# A stand-in for debian:bookworm-slim, made from Debian's packages, under the very name in FROM.
if ! buildah $store images -q docker.io/library/debian:bookworm-slim >/dev/null 2>&1; then
    [ -s "$work/base.tar" ] || mmdebstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/base.tar"
    base=$(buildah $store from scratch)
    buildah $store add -q "$base" "$work/base.tar" /
    buildah $store config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$base"
    buildah $store commit -q "$base" docker.io/library/debian:bookworm-slim
    buildah $store rm "$base" >/dev/null
fi
# This machine's certificates and package settings, for the build only: nothing of them enters the image.
mounts=(-v /etc/ssl/certs:/etc/ssl/certs:ro)
[ -e /etc/pip.conf ] && mounts+=(-v /etc/pip.conf:/etc/pip.conf:ro)
for one in /etc/apt/apt.conf.d /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/trusted.gpg.d; do
    [ -e $one ] && mounts+=(-v $one:$one:ro)
done
buildah $store bud --pull-never --network host --format docker --layers=false "${mounts[@]}" -t localhost/trivet:dev .
run() { podman $store --storage-driver overlay --cgroup-manager cgroupfs --runtime runc "$@"; }
limits="--pull never --network host --ulimit nofile=1024:1024 --ulimit nproc=4096:4096"
run run --rm $limits localhost/trivet:dev --version
id=$(run run -d $limits --read-only --cap-drop all -e TRIVET__API__LISTEN=127.0.0.1:7499 localhost/trivet:dev)
trap 'run rm -f -t 1 "$id" >/dev/null' EXIT
for _ in $(seq 100); do
    if run exec "$id" trivet health --url http://127.0.0.1:7499; then healthy=1; break; fi
    sleep 0.1
done
[ "${healthy:-}" = 1 ] || { run logs "$id"; echo "image: not healthy"; exit 1; }
run exec "$id" id -u | grep -qx 971
run stop -t 30 "$id" >/dev/null
[ "$(run inspect -f '{{.State.ExitCode}}' "$id")" = 0 ] || { run logs "$id"; echo "image: did not stop cleanly"; exit 1; }
echo "image: built, ran healthy as uid 971 on a read-only root, drained with exit 0"
