"""The dataset card: what is in a Distiset, how it looks, and how to make it again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from asyncdistil.distiset.columns import json_text

if TYPE_CHECKING:
    from asyncdistil.distiset.distiset import Distiset

_TAGS = ["synthetic", "asyncdistil"]
_SAMPLE_TEXT = 2_000  # characters of one value; the rest of it is in the dataset
_SAMPLE_ITEMS = 20
_THOUSANDS = ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"]

_TEMPLATE = """\
---
{{ metadata }}
---
# {{ title }}

This dataset was made by a pipeline of [asyncdistil](https://pypi.org/project/asyncdistil/).

## What is in it

| configuration | split | rows | columns |
|---|---|---:|---|
{% for part in parts -%}
| {{ part.config | cell }} | {{ part.split | cell }} | {{ part.rows }} | {{ part.columns | cell }} |
{% endfor %}
{%- if hub %}
```python
from datasets import load_dataset

{% for config in configs -%}
dataset = load_dataset({{ title | python }}, {{ config | python }})
{% endfor -%}
```
{% endif %}
{%- for part in parts if part.sample is not none %}
<details><summary>A row of {{ part.config | cell }} / {{ part.split | cell }}</summary>

{{ part.sample | fenced }}

</details>
{% endfor %}
{%- if remarks %}
## Remarks

{% for remark in remarks -%}
- {{ remark }}
{% endfor -%}
{% endif %}
{%- if pipeline or script %}
## How to make it again
{% if pipeline %}
`pipeline.yaml` describes the pipeline:

```console
{% if hub %}curl -L -O {{ pipeline }}
asyncdistil run pipeline.yaml{% else %}asyncdistil run {{ pipeline }}{% endif %}
```
{% endif %}{% if script %}
`{{ script }}` is the program that ran it.
{% endif %}{% endif %}
{%- if artifacts %}
## Artifacts

Steps of the pipeline saved more than rows; it is in `artifacts/`:

{% for artifact in artifacts -%}
- `{{ artifact }}`
{% endfor -%}
{% endif %}
{%- if citations %}
## Citations

{% for citation in citations %}
{{ citation | fenced }}
{% endfor -%}
{% endif %}"""


def card_text(
    distiset: Distiset,
    title: str,
    *,
    hub: bool = False,
    script: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> str:
    """Write the card as Markdown with a YAML head.

    Args:
        distiset: What it is about; the first row of each split is shown.
        title: Repository id, or name of the directory.
        hub: Whether it is for the Hub, where others load it by ``title``.
        script: Name of the script in the repository, if it is there.
        metadata: Head of a card that exists already; entries that are not ours are kept.
    """
    from huggingface_hub import DatasetCardData
    from jinja2 import Environment, StrictUndefined

    head = dict(metadata or {})
    head["size_categories"] = [size_category(sum(distiset.num_rows.values()))]
    head["tags"] = list(dict.fromkeys([*(head.get("tags") or []), *_TAGS]))
    environment = Environment(undefined=StrictUndefined, autoescape=False, trim_blocks=False)
    environment.filters |= {"cell": _cell, "python": repr, "fenced": _fenced}
    folder = f"https://huggingface.co/datasets/{title}/raw/main/" if hub else "distiset_configs/"
    return environment.from_string(_TEMPLATE).render(
        metadata=DatasetCardData(**head).to_yaml().strip(),
        title=title,
        hub=hub,
        configs=list(distiset),
        parts=_parts(distiset),
        remarks=_remarks(distiset),
        pipeline=f"{folder}pipeline.yaml" if distiset.pipeline_path else "",
        script=script,
        artifacts=_artifacts(distiset),
        citations=distiset.citations,
    )


def size_category(rows: int) -> str:
    """Size class as the Hub names them, ``n<1K`` to ``n>1T``."""
    if rows < 1_000:
        return "n<1K"
    for power, (low, high) in enumerate(pairwise(_THOUSANDS), start=4):
        if rows < 10**power:
            return f"{low}<n<{high}"
    return "n>1T"


def _parts(distiset: Distiset) -> list[dict[str, Any]]:
    parts = []
    for config, value in distiset.items():
        for split, dataset in (value if isinstance(value, dict) else {"train": value}).items():
            sample = dataset.with_format(None)[0] if len(dataset) else None
            parts.append(
                {
                    "config": config,
                    "split": str(split),
                    "rows": f"{len(dataset):,}",
                    "columns": ", ".join(dataset.column_names),
                    "sample": None if sample is None else _pretty(sample),
                }
            )
    return parts


def _remarks(distiset: Distiset) -> list[str]:
    remarks = [
        f"{count:,} rows of step `{step}` failed; their outputs are null."
        for step, count in distiset.failures.items()
        if isinstance(count, int)
    ]
    if distiset.partial:
        remarks.insert(0, "The run had not ended: this is what it had made so far.")
    return remarks + [note for notes in distiset.notes.values() for note in notes]


def _artifacts(distiset: Distiset) -> list[str]:
    path = distiset.artifacts_path
    if path is None or not path.is_dir():
        return []
    return sorted(each.relative_to(path).as_posix() for each in path.glob("*/*") if each.is_dir())


def _pretty(sample: Mapping[str, Any]) -> str:
    plain = json.loads(json_text({name: _shown(value) for name, value in sample.items()}))
    return json.dumps(plain, indent=2, ensure_ascii=False)


def _shown(value: Any) -> Any:
    match value:
        case str() if len(value) > _SAMPLE_TEXT:
            return f"{value[:_SAMPLE_TEXT]}… ({len(value):,} characters)"
        case bytes():
            return f"({len(value):,} bytes)"
        case list():
            shown = [_shown(item) for item in value[:_SAMPLE_ITEMS]]
            return shown if len(value) <= _SAMPLE_ITEMS else [*shown, f"… ({len(value):,} items)"]
        case dict():
            return {key: _shown(each) for key, each in value.items()}
    return value


def _cell(text: str) -> str:
    """Keep text inside one cell of a Markdown table."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return re.sub(r"\s+", " ", escaped)


def _fenced(text: str) -> str:
    """Put text into a code block that it cannot end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text.strip()}\n{fence}"
