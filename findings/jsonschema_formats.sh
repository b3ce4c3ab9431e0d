#!/usr/bin/env bash
# jsonschema 4.26.0 with rfc3987-syntax 1.1.0: once the extra format-nongpl is installed, as cyclonedx-python-lib's extra
# json-validation does, `import jsonschema` takes about a second, in every program of that environment.
#
# One would expect that a checker of formats costs something when a schema with such a format is checked. Seen instead:
#   processor time of `import jsonschema`, without the extra → 0.1 s
#   the same with it, and no schema at all                  → 1.0 s: rfc3987_syntax compiles its grammar when imported
# So Jupyter, Ray and whatever else imports jsonschema start that much later beside a tool that asks for the extra.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
install() { "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
seconds() {  # the least of three
  for _ in 1 2 3; do
    "$folder/venv/bin/python" -c "import time, jsonschema; print(time.process_time())"
  done | sort -n | head -n 1
}
install jsonschema==4.26.0
without=$(seconds)
install rfc3987-syntax==1.1.0
with=$(seconds)
echo "import jsonschema: $without s, with rfc3987-syntax $with s"
awk "BEGIN { exit !($with > 3 * $without) }" || { echo "changed: expected more than three times as long" >&2; exit 1; }
