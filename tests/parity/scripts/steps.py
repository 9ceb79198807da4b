"""Steps of the gallery that need no model, called without a pipeline."""

import json
import sys
from pathlib import Path
from typing import Any

from distilabel.steps import (
    CombineOutputs,
    ConversationTemplate,
    DeitaFiltering,
    EmbeddingDedup,
    ExpandColumns,
    FaissNearestNeighbour,
    FormatChatGenerationDPO,
    FormatChatGenerationSFT,
    FormatTextGenerationDPO,
    FormatTextGenerationSFT,
    GroupColumns,
    KeepColumns,
    MergeColumns,
    MinHashDedup,
    TruncateTextColumn,
)


def rows_of(step: Any, *ports: Any) -> Any:
    step.load()
    return next(step.process(*[[dict(row) for row in rows] for rows in ports]))


CHAT = [{"role": "user", "content": "2+2?"}]
TEXTS = [
    {"text": text} for text in ("the cat sat on the mat", "the cat sat on the mat !", "no", "c")
]
SAID = {"instruction": "2+2?", "generations": ["4", "5", "6"], "ratings": [1, 3, 3]}
VECTORS = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.5, 0.5]]
SCORED = [
    {"evol_instruction_score": a, "evol_response_score": b, "embedding": v}
    for a, b, v in zip([0.5, 0.9, None, 0.7], [0.5, 0.2, 0.6, None], VECTORS, strict=True)
]
NEAR = [
    {"nn_indices": [1], "nn_scores": [0.95]},
    {"nn_indices": [2], "nn_scores": [0.1]},
    {"nn_indices": [0], "nn_scores": [0.3]},
]
STATISTICS = {"statistics_x": {"input_tokens": 4, "output_tokens": 8}}

made: dict[str, Any] = {
    "keep": rows_of(KeepColumns(columns=["b"]), [{"a": 1, "b": 2}]),
    "expand": rows_of(ExpandColumns(columns=["a"]), [{"a": [1, 2], "b": 3}]),
    "expand, renamed": rows_of(ExpandColumns(columns={"a": "c"}), [{"a": [1, 2], "b": 3}]),
    "expand, encoded": rows_of(ExpandColumns(columns=["a"], encoded=True), [{"a": "[1, 2]"}]),
    "expand, statistics": rows_of(
        ExpandColumns(columns=["a"], split_statistics=True),
        [{"a": [1, 2], "distilabel_metadata": STATISTICS}],
    ),
    "merge": rows_of(MergeColumns(columns=["a", "b"]), [{"a": 1, "b": [2, 3], "c": 4}]),
    "merge, named": rows_of(
        MergeColumns(columns=["a", "b"], output_column="c"), [{"a": 1, "b": 2}]
    ),
    "group": rows_of(GroupColumns(columns=["a"]), [{"a": 1, "b": 2}], [{"a": 3, "b": 4}]),
    "group, named": rows_of(
        GroupColumns(columns=["a", "b"], output_columns=["x", "y"]),
        [{"a": 1, "b": 2}],
        [{"a": 3, "b": 4}],
    ),
    "combine": rows_of(
        CombineOutputs(),
        [{"a": 1, "distilabel_metadata": {"one": 1}}],
        [{"b": 2, "distilabel_metadata": {"two": 2}}],
    ),
    "truncate": rows_of(TruncateTextColumn(max_length=3), TEXTS),
    "truncate, column": rows_of(TruncateTextColumn(column="t", max_length=3), [{"t": "abcdef"}]),
    "conversation": rows_of(ConversationTemplate(), [{"instruction": "a", "response": "b"}]),
    "sft": rows_of(
        FormatTextGenerationSFT(),
        [
            {"instruction": "a", "generation": "b"},
            {"instruction": "a", "generation": "b", "system_prompt": "s"},
        ],
    ),
    "chat sft": rows_of(FormatChatGenerationSFT(), [{"messages": CHAT, "generation": "4"}]),
    "dpo": rows_of(FormatTextGenerationDPO(), [SAID, {**SAID, "generation_models": ["m"] * 3}]),
    "chat dpo": rows_of(FormatChatGenerationDPO(), [{**SAID, "messages": CHAT}]),
    "minhash": rows_of(MinHashDedup(tokenizer="ngrams", threshold=0.7), TEXTS),
    "neighbours": rows_of(FaissNearestNeighbour(k=2), [{"embedding": v} for v in VECTORS]),
    "embedding dedup": rows_of(EmbeddingDedup(threshold=0.9), NEAR),
    "deita": rows_of(DeitaFiltering(data_budget=3, diversity_threshold=0.01), SCORED),
}
# Numbers of NumPy become floats.
Path(sys.argv[1], "made.json").write_text(json.dumps(made, default=float))
