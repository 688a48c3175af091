"""Writes the configuration reference into docs/training.md, from the fields of train/config.py and their strings.

python docs/config_reference.py           rewrites the section between the two marks
python docs/config_reference.py --check   writes nothing; exit status 1 when the section is not what the code says
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "training.md"
BEGIN, END = "<!-- configuration reference: begin -->\n", "<!-- configuration reference: end -->\n"
TABLES = {
    "Config": "Top level",
    "DataConfig": "`[data]`",
    "ModelConfig": "`[model]`",
    "StageConfig": "`[[stage]]`, once for each stage",
    "ValidationConfig": "`[validation]`",
}


def reference() -> str:
    """All tables, as Markdown."""
    tree = ast.parse((ROOT / "train" / "config.py").read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return "\n".join(_table(title, classes[name]) for name, title in TABLES.items())


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
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.slice, ast.Tuple):
        return " or ".join(f"`{_literal(item)}`" for item in annotation.slice.elts)
    names = {
        "str": "text",
        "int": "whole number",
        "float": "number",
        "bool": "true or false",
        "str | None": "text",
        "float | None": "number",
    }
    return names[ast.unparse(annotation)]


def _literal(value: ast.expr) -> str:
    """As TOML writes it."""
    content = ast.literal_eval(value)
    if isinstance(content, bool):
        return str(content).lower()
    return "none" if content is None else f'"{content}"' if isinstance(content, str) else str(content)


def main() -> int:
    """Rewrites or checks the document; returns the exit status."""
    text = DOCUMENT.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    wanted = head + BEGIN + "\n" + reference() + "\n" + END + tail
    if "--check" in sys.argv[1:]:
        return int(wanted != text)
    DOCUMENT.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
