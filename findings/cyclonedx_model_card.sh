#!/usr/bin/env bash
# cyclonedx-python-lib 11.12.0: a bill of materials with a model card (ML-BOM, since CycloneDX 1.5) that is read and
# written again has lost the card, and what it says of data sets, without a warning.
#
# One would expect that what the library's own validator accepts as CycloneDX 1.6 is what its classes hold, or that they
# refuse the rest. Seen instead:
#   JsonStrictValidator(V1_6)            → valid
#   Bom.from_json, then JsonV1Dot6       → component of type machine-learning-model without `modelCard`,
#                                          component of type data without `data`; nothing is raised or logged
# So a tool that merges or signs bills through these classes has to keep the JSON itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'cyclonedx-python-lib[json-validation]==11.12.0'
seen=$("$folder/venv/bin/python" -W error - << 'PYTHON'
import json

from cyclonedx.model.bom import Bom
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

card = {
    "modelParameters": {"task": "classification", "datasets": [{"ref": "data"}]},
    "quantitativeAnalysis": {"performanceMetrics": [{"type": "accuracy", "value": "0.98"}]},
}
bill = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "metadata": {"component": {"type": "machine-learning-model", "bom-ref": "m", "name": "m", "modelCard": card}},
    "components": [{"type": "data", "bom-ref": "data", "name": "d", "data": [{"type": "dataset", "name": "d"}]}],
    "dependencies": [{"ref": "m", "dependsOn": ["data"]}],
}
print("valid" if JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None else "invalid")
again = json.loads(JsonV1Dot6(Bom.from_json(bill)).output_as_string())
print("modelCard" in again["metadata"]["component"], "data" in again["components"][0])
PYTHON
)
echo "$seen"
[ "$seen" = $'valid\nFalse False' ] || { echo "changed: expected valid, False False" >&2; exit 1; }
