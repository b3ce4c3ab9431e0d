#!/usr/bin/env bash
# BentoML's Image.run_script("setup.sh"), for the image of a service, puts a call of the script into the Dockerfile, but
# not the script into the Bento: `bentoml build` says that it succeeded, and `bentoml containerize` will fail at
# "chmod: cannot access './env/docker/script__…'". The build copies the image with attrs.evolve, which leaves out fields
# that __init__ does not take, and `scripts` is one. A script that `docker: {setup_script: setup.sh}` of bentofile.yaml
# names is packed.
#
# Seen with bentoml 1.4.39:
#   run_script: Dockerfile calls script__…, env/docker holds Dockerfile entrypoint.sh
#   setup_script: Dockerfile calls script__…, env/docker holds Dockerfile entrypoint.sh script__…
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export BENTOML_HOME=$folder/home BENTOML_DO_NOT_TRACK=True
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet bentoml==1.4.39
mkdir "$folder/tiny"
cd "$folder/tiny"
printf '#!/bin/sh\necho set up\n' > setup.sh
cat > service.py <<'PYTHON'
import os

import bentoml

image = bentoml.images.Image(python_version="3.11", lock_python_packages=False).python_packages("numpy")
if os.environ["HOW"] == "run_script":
    image.run_script("setup.sh")


@bentoml.service(image=image)
class Tiny:
    @bentoml.api
    def same(self, x: int) -> int:
        return x
PYTHON
build() {  # how the script is named; prints what env/docker holds, with the hash in the script's name left out
  HOW=$1 "$folder/venv/bin/bentoml" build --version "$1" > "$folder/build.log" 2>&1 || { cat "$folder/build.log" >&2; exit 1; }
  docker=$BENTOML_HOME/bentos/tiny/$1/env/docker
  grep --quiet 'RUN .*env/docker/script__' "$docker/Dockerfile"
  ls "$docker" | sed 's/script__.*/script__…/' | xargs
}
printf 'service: "service:Tiny"\n' > bentofile.yaml
with_run_script=$(build run_script)
printf 'docker: {setup_script: setup.sh}\n' >> bentofile.yaml
with_setup_script=$(build setup_script)
echo "run_script: Dockerfile calls script__…, env/docker holds $with_run_script"
echo "setup_script: Dockerfile calls script__…, env/docker holds $with_setup_script"
[ "$with_run_script" = "Dockerfile entrypoint.sh" ]
[ "$with_setup_script" = "Dockerfile entrypoint.sh script__…" ]
