"""Writes the configuration references into docs/training.md and docs/enhance.md, from the fields of the code's
configurations and their strings.

python docs/config_reference.py           rewrites the sections between the two marks
python docs/config_reference.py --check   writes nothing; exit status 1 when a section is not what the code says
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- {}: begin -->\n", "<!-- {}: end -->\n"
CAPTIONING = {
    "Config": "Top level",
    "DataConfig": "`[data]`",
    "ModelConfig": "`[model]`",
    "MemberConfig": "`[[model.members]]`, once for each decoder of an ensemble",
    "StageConfig": "`[[stage]]`, once for each stage",
    "ValidationConfig": "`[validation]`",
}
SUPER_RESOLUTION = {
    "Config": "Top level",
    "DataConfig": "`[data]`",
    "ModelConfig": "`[model]`",
    "FeaturesConfig": "`[features]`",
    "StageConfig": "`[[stage]]`, once for each stage",
}
DETECTION = {
    "Config": "Detection: top level",
    "DataConfig": "Detection: `[data]`",
    "ModelConfig": "Detection: `[model]`",
    "StageConfig": "Detection: `[[stage]]`, once for each stage",
}
REFERENCES = (
    (ROOT / "docs" / "training.md", "configuration reference", ROOT / "train" / "config.py", CAPTIONING),
    (ROOT / "docs" / "training.md", "detection reference", ROOT / "train" / "detection" / "config.py", DETECTION),
    (
        ROOT / "docs" / "enhance.md",
        "configuration reference",
        ROOT / "train" / "superres" / "config.py",
        SUPER_RESOLUTION,
    ),
)
"""(document, name of its section, source, its tables and their titles)."""


def reference(source: Path, tables: dict[str, str]) -> str:
    """All tables of a configuration, as Markdown."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return "\n".join(_table(title, classes[name]) for name, title in tables.items())


def _table(title: str, node: ast.ClassDef) -> str:
    rows = [
        f"#### {title}",
        "",
        ast.get_docstring(node) or "",
        "",
        "| key | value | default | meaning |",
        "|---|---|---|---|",
    ]
    for item, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(item, ast.AnnAssign) or "Config" in ast.unparse(item.annotation):
            continue
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = " ".join(str(after.value.value).replace("``", "`").split()).replace("|", "\\|")
        default = "required" if item.value is None else f"`{_literal(item.value)}`"
        assert isinstance(item.target, ast.Name)
        rows.append(f"| `{item.target.id}` | {_kind(item.annotation)} | {default} | {text} |")
    return "\n".join(rows) + "\n"


def _kind(annotation: ast.expr) -> str:
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "tuple":
        return "list of numbers"
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Tuple):
        return " or ".join(f"`{_literal(item)}`" for item in annotation.slice.elts)
    names = {
        "Literal['super_resolution']": '`"super_resolution"`',
        "Literal['captioning']": '`"captioning"`',
        "Literal['detection']": '`"detection"`',
        "str": "text",
        "int": "whole number",
        "float": "number",
        "bool": "true or false",
        "str | None": "text",
        "float | None": "number",
        "int | None": "whole number",
        "bool | None": "true or false",
    }
    return names[ast.unparse(annotation)]


def _literal(value: ast.expr) -> str:
    """As TOML writes it."""
    content = ast.literal_eval(value)
    if isinstance(content, tuple):
        return str(list(content))
    if isinstance(content, bool):
        return str(content).lower()
    return "none" if content is None else f'"{content}"' if isinstance(content, str) else str(content)


def main() -> int:
    """Rewrites or checks the documents; returns the exit status."""
    status = 0
    for document, name, source, tables in REFERENCES:
        text = document.read_text(encoding="utf-8")
        begin, end = BEGIN.format(name), END.format(name)
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        wanted = head + begin + "\n" + reference(source, tables) + "\n" + end + tail
        if "--check" not in sys.argv[1:]:
            document.write_text(wanted, encoding="utf-8")
        elif wanted != text:
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
