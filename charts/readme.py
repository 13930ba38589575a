"""Write the values table of each chart's README from the `# --` comments of its values.yaml.

    python charts/readme.py           # write
    python charts/readme.py --check   # exit 1 where a README is not current

helm-docs does the same from Go templates; sixty lines of Python keep `make generate` free of one more built tool.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

CHARTS = Path(__file__).parent
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"


@dataclass(frozen=True)
class Value:
    path: str
    default: object
    description: str


class UndocumentedValue(ValueError):
    """A leaf of values.yaml without a `# --` comment above it."""


def comment_above(lines: list[str], line: int) -> str:
    """The text of the `# --` comment that ends on the line before `line` (counted from 0), or ''."""
    comment: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        comment.insert(0, lines[line].strip().lstrip("# "))
    text = " ".join(comment)
    return text.removeprefix("-- ") if text.startswith("-- ") else ""


def documented_values(text: str) -> Iterator[Value]:
    """Yield the values of a values.yaml in its order; a commented mapping is one value, its parts are not listed."""

    def walk(node: yaml.MappingNode, prefix: str) -> Iterator[Value]:
        for key, value in node.value:
            path, comment = f"{prefix}{key.value}", comment_above(lines, key.start_mark.line)
            if comment:
                yield Value(path, yaml.safe_load(yaml.serialize(value)), comment)
            elif isinstance(value, yaml.MappingNode) and value.value:
                yield from walk(value, f"{path}.")
            else:
                raise UndocumentedValue(f"values.yaml: `{path}` must have a comment above it that begins with `# --`")

    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    yield from walk(root, "")


def table(values: Iterator[Value]) -> str:
    rows = (f"| `{v.path}` | `{json.dumps(v.default)}` | {v.description} |" for v in values)
    return "\n".join(["| value | default | meaning |", "| --- | --- | --- |", *rows])


def rendered(chart: Path) -> str:
    """The chart's README with a current table between its two markers."""
    readme = (chart / "README.md").read_text()
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    return f"{before}{BEGIN}\n{table(documented_values((chart / 'values.yaml').read_text()))}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a README is not current")
    check = parser.parse_args().check
    stale = [
        chart
        for chart in sorted(p.parent for p in CHARTS.glob("*/Chart.yaml"))
        if rendered(chart) != (chart / "README.md").read_text()
    ]
    for chart in stale:
        if check:
            print(f"charts/{chart.name}/README.md is not current: run `python charts/readme.py`", file=sys.stderr)
        else:
            (chart / "README.md").write_text(rendered(chart))
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
