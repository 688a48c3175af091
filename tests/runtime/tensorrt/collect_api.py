"""Records which names a real TensorRT module has, for ``test_api.py``. Run it by the Python that has the module:

    python collect_api.py api.json [LABEL]

It adds the module's column to the file, or renews it; LABEL is the version where none is given. ``collect_api.sh``
does this for all versions that are recorded.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

CLASSES = """
Builder EngineInspector IBuilderConfig ICudaEngine IExecutionContext IHostMemory ILayer ILogger INetworkDefinition
IProgressMonitor ITensor ITimingCache OnnxParser ParserError Runtime
"""
ENUMS = """
BuilderFlag DataType LayerInformationFormat LayerType MemoryPoolType NetworkDefinitionCreationFlag ProfilingVerbosity
TacticSource TensorFormat TensorIOMode TensorLocation ExecutionContextAllocationStrategy
"""


def names(trt: object) -> set[str]:
    """All public names of the classes and enums above."""
    found = set()
    for owner in (CLASSES + ENUMS).split():
        made = getattr(trt, owner, None)
        if made is None:
            continue
        found.add(owner)
        members = getattr(made, "__members__", None)
        public = dir(made) if members is None else members
        found |= {f"{owner}.{name}" for name in public if not name.startswith("_")}
    return found


def main() -> None:
    path = Path(sys.argv[1])
    label = sys.argv[2] if len(sys.argv) > 2 else ""
    trt = importlib.import_module("tensorrt_lean" if label.startswith("lean") else "tensorrt")
    label = label or str(trt.__version__)
    table = json.loads(path.read_text()) if path.exists() else {"versions": [], "names": {}}
    columns = {
        version: {name for name, has in table["names"].items() if has[index] == "x"}
        for index, version in enumerate(table["versions"])
    }
    columns[label] = names(trt)
    versions = sorted(columns, key=lambda text: [int(part) if part.isdigit() else -1 for part in text.split(".")])
    rows = {
        name: "".join("x" if name in columns[version] else "." for version in versions)
        for name in sorted(set().union(*columns.values()))
    }
    path.write_text(json.dumps({"versions": versions, "names": rows}, indent=0) + "\n")
    print(label, len(columns[label]), "names")


if __name__ == "__main__":
    main()
