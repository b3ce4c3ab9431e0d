#!/usr/bin/env bash
# Builds the container's image of a Bento where there is neither Docker nor a registry of images, as root on Debian 12
# with podman, buildah, runc and mmdebstrap:   deploy/image.sh [BENTO [IMAGE]]
#
# Everything comes from Debian's mirror and from the package index that pip and uv use. The files that SSL_CERT_FILE,
# PIP_CONFIG_FILE and UV_CONFIG_FILE name hold while it builds, and do not stay in the image. podman keeps its images
# where CONTAINERS_STORAGE_CONF says.
set -euo pipefail
bento=${1:-percept:latest} image=${2:-percept:1}
base=python:3.11-slim  # which the Bento's Dockerfile asks for; here it is Debian with its own Python 3.11
certificates=/etc/ssl/certs/ca-certificates.crt  # in the image

fail() {  # with status 3 where this machine cannot build it
  echo "deploy/image.sh: $1" >&2
  exit "${2:-3}"
}

[ "$(id -u)" = 0 ] || fail "only root may mount the file systems of an image"
for program in podman buildah runc mmdebstrap bentoml; do
  command -v "$program" > /dev/null || fail "$program is missing: apt-get install podman buildah runc mmdebstrap"
done

if ! podman image exists "$base"; then
  # Debian's mark EXTERNALLY-MANAGED would keep pip from installing uv.
  mmdebstrap --quiet --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates \
    --customize-hook='ln -s python3 "$1/usr/bin/python"; rm "$1"/usr/lib/python3*/EXTERNALLY-MANAGED' bookworm - |
    podman import --quiet --change "ENV=SSL_CERT_FILE=$certificates" --change ENV=UV_SYSTEM_CERTS=true - "$base" ||
    { podman image rm "$base" > /dev/null 2>&1; fail "the base could not be built; see above"; }
fi

mounted=()
for pair in "${SSL_CERT_FILE:-}:$certificates" "${PIP_CONFIG_FILE:-}:/etc/pip.conf" \
  "${UV_CONFIG_FILE:-}:/etc/uv/uv.toml"; do
  [ ! -f "${pair%%:*}" ] || mounted+=(--opt "volume=$pair:ro")
done
BUILDAH_ISOLATION=chroot bentoml containerize "$bento" --backend podman --image-tag "$image" \
  --opt network=host --opt isolation=chroot "${mounted[@]}"
podman image exists "$image" || fail "$bento could not be built; see above" 1
