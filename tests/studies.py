"""Studies that tests read and run."""

from __future__ import annotations

import math
from pathlib import Path

import yaml

CURVATURES, BUDGETS, FUNCTIONS = (0.5, 1.0, 2.0), (0.01, 0.002), ("halo", "entropy")
"""Of a sweep."""

TREE = {
    "variants": {
        "random": {"acquisition.function": "random"},
        "best": {"acquisition.beta": math.inf},
        "flat": {"model.geometry": "euclidean", "training.losses.negative": 1},
        "ends": {"training.protocol": "source_only"},
    },
    "tables": {
        "main": {"variants": ["random", "best"], "budget": [0.01, 0.02], "seeds": 3, "reference": "random"},
        "ends": {"variants": ["ends"], "seeds": 2, "reference": "ends"},
        "changes": {"variants": ["best", "flat"], "budget": [0.02], "seeds": 1, "reference": "best"},
    },
}


FOUR = {
    "variants": {
        "halo": {},
        "random": {"acquisition.function": "random"},
        "radius in images": {"acquisition.function": "radius", "acquisition.scope": "image"},
        "source": {"training.protocol": "source_only"},
        "full": {"training.protocol": "fully_supervised"},
    },
    "tables": {
        "main": {"variants": ["random", "halo"], "budget": [0.02, 0.04], "seeds": 1, "reference": "random"},
        "others": {"variants": ["radius in images", "source", "full"], "seeds": 1, "reference": "source"},
    },
}

ONE = {"variants": {"halo": {}}, "tables": {"main": {"variants": ["halo"], "seeds": 1, "reference": "halo"}}}


def written(tmp_path: Path, tree: object) -> Path:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file
