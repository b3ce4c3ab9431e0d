#!/usr/bin/env bash
# Known vulnerabilities of the versions in constraints.txt, or in the file given: what an image and a clone install.
# Exits with 0 if there are none, 1 if there are some, and 2 if not every package could be looked up, as without network
# to PyPI itself: a mirror has no vulnerabilities to tell of, for which pip-audit alone would report "none".
set -euo pipefail
cd "$(dirname "$0")/.."
pins=${1:-constraints.txt}
report=$(mktemp)
trap 'rm -f "$report" "$report.log"' EXIT
pip-audit --requirement "$pins" --no-deps --disable-pip --progress-spinner off --format json --output "$report" \
  2> "$report.log" || true
if [ ! -s "$report" ]; then
  tail -n 1 "$report.log" >&2
  echo "not audited: the database of vulnerabilities cannot be reached; $pins holds" >&2
  cat "$pins"
  exit 2
fi
python - "$report" << 'END'
import json
import sys

dependencies = json.load(open(sys.argv[1]))["dependencies"]
vulnerable = [(found, one) for found in dependencies for one in found.get("vulns", ())]
for found, one in vulnerable:
    fixed = ", ".join(one["fix_versions"]) or "no version yet"
    print(f"{found['name']} {found['version']}: {one['id']}, fixed in {fixed}")
skipped = [found["skip_reason"] for found in dependencies if "skip_reason" in found]
for reason in skipped:
    print(f"not audited: {reason}")
sys.exit(1 if vulnerable else 2 if skipped else 0)
END
