"""A task of lm-evaluation-harness in files of its own, which needs no network."""

import json
from pathlib import Path

import yaml

from server.embedded.recipe.items import Item

NAME = "decant_sums"


def write(folder: Path, items: list[Item], **more: object) -> Path:
    """The folder, with a YAML file and its documents: the last number of an answer is compared."""
    documents = folder / "documents.jsonl"
    lines = [json.dumps({"question": item.prompt, "answer": item.answer}) for item in items]
    documents.write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = {
        "task": NAME,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(documents)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 96},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [
            {
                "name": "last-number",
                "filter": [
                    {"function": "regex", "regex_pattern": r"(\d+)", "group_select": -1},
                    {"function": "take_first"},
                ],
            }
        ],
        **more,
    }
    (folder / "sums.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return folder
