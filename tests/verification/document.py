"""The tables of docs/certificate.md, made of the schema and of the table of gates.

``python -m tests.verification.document`` writes them into the document anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aps_deploy.verification.gates import GATES, PRECISIONS, GateSpec
from aps_deploy.verification.schema import certificate_schema

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "certificate.md"


def gate_table() -> str:
    """Return the table of gates: limits per precision, and the reason for each."""
    lines = [f"| Gate | {' | '.join(PRECISIONS)} | Unit | Why |", f"|{' --- |' * (len(PRECISIONS) + 3)}"]
    for name, spec in GATES.items():
        limits = " | ".join(_limit(spec, precision) for precision in PRECISIONS)
        reason = spec.reason
        if spec.parametrises:
            reason += f" (decides {', '.join(f'`{other}`' for other in spec.parametrises)})"
        if spec.only_equivariant:
            others = sorted({_limit(spec, precision, elsewhere=True) for precision in PRECISIONS})
            where = "elsewhere than in PyTorch, ONNX Runtime and onnx's ReferenceEvaluator on the CPU"
            if spec.only_promised:
                where += ", and where neither file nor reference is a network of aps-deploy"
            reason += f" ({where}: {', '.join(others)})"
        lines.append(f"| `{name}` | {limits} | {spec.unit} | {reason.replace('|', '&#124;')} |")
    return "\n".join(lines)


def _limit(spec: GateSpec, precision: str, *, elsewhere: bool = False) -> str:
    limit = (spec.elsewhere if elsewhere else spec.limits)[precision]
    return "reported" if limit is None else f"{'≤' if spec.comparison == '<=' else '≥'} {limit:g}"


def member_tables() -> str:
    """Return one table per object of the schema, the document itself first."""
    schema = certificate_schema()
    parts = [f"#### The document\n\n{schema['description']}\n\n{_members(schema)}"]
    for name, definition in schema["$defs"].items():
        parts.append(f"#### {name}\n\n{definition['description']}\n\n{_members(definition)}")
    return "\n\n".join(parts)


def _members(schema: dict[str, Any]) -> str:
    lines = ["| Member | Type | Meaning |", "| --- | --- | --- |"]
    for name, member in schema["properties"].items():
        lines.append(f"| `{name}` | {_type(member)} | {member['description']} |")
    return "\n".join(lines)


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in reversed(schema["anyOf"]))
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name})"
    if "const" in schema:
        return str(schema["const"])
    types = schema["type"]
    words = " or ".join([types] if isinstance(types, str) else types)
    return f"array of {_type(schema['items'])}" if types == "array" else words


def with_tables(text: str) -> str:
    """Return the document with the text between its markers replaced by the tables."""
    for name, table in (("gates", gate_table()), ("members", member_tables())):
        opening, closing = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, rest = text.split(opening)
        text = f"{before}{opening}\n{table}\n{closing}{rest.split(closing)[1]}"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
