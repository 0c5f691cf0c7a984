"""Finishes the bill of materials that cyclonedx-gomod writes of the program: sbom.py RAW BINARY VERSION > SBOM.

What is the builder's alone goes (hashes of the tool), so that the same source gives the same bytes. The main component
gets the version that the program has, and the hash of the program.
"""

import hashlib
import json
import sys
from pathlib import Path


def main(raw: str, binary: str, version: str) -> None:
    bom = json.loads(Path(raw).read_text())
    component = bom["metadata"]["component"]
    made_up = component["version"]
    for tool in bom["metadata"]["tools"] if isinstance(bom["metadata"]["tools"], list) else []:
        tool.pop("hashes", None)
        tool.pop("version", None)
        tool["version"] = tool_version()
    text = json.dumps(bom).replace(f"@{made_up}", f"@v{version}")
    bom = json.loads(text)
    component = bom["metadata"]["component"]
    component["version"] = version
    component["hashes"] = [{"alg": "SHA-256", "content": hashlib.sha256(Path(binary).read_bytes()).hexdigest()}]
    json.dump(bom, sys.stdout, indent=2, ensure_ascii=False)
    print()


def tool_version() -> str:
    """That of tools/go.mod: a tool that the go command builds does not know its own."""
    for line in Path("tools/go.mod").read_text().splitlines():
        words = line.split()
        if words[:1] == ["github.com/CycloneDX/cyclonedx-gomod"]:
            return words[1]
    raise SystemExit("sbom.py: tools/go.mod does not name cyclonedx-gomod")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
