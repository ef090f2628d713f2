"""Overrides of a study as luigi parameters: JSON, or a plain word."""

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import luigi

from bench.study.settings import SETTINGS

_GRID = {
    "gpu_ids": "GPUs, as '[0,1]' or all",
    "numa_nodes": "nodes, as '[0,2]' or all; CPU node = memory node",
    "placements": "[CPU node, memory node] pairs, as '[[0,0],[0,2]]', in place of numa_nodes",
    "models": "models, as '[\"vit32x6x512\"]'",
    "patch_size": "patch size of every model of the study",
    "depth": "depth of every model of the study",
    "dim": "dim of every model of the study",
    "sweep": "more axes, as '{\"compile_model\": [false, true]}': every value with every cell of the study",
    "axes": "in place of the study's axes; as sweep",
    "zip": 'lists that vary together, as \'[{"gpu_ids": [0,1], "numa_nodes": [0,2]}]\'',
    "exclude": 'combinations left out, as \'[{"dtype": "bf16", "depth": [2,4]}]\'',
    "include": "combinations added, as '[{\"batch_size\": 64}]'; what is not named is as the study says",
}


class OverrideParameter(luigi.Parameter):
    """Keeps canonical JSON text, empty if not given: the study itself checks the value, and says what is allowed."""

    def __init__(self, description: str) -> None:
        super().__init__(default="", description=description)

    def normalize(self, value: Any) -> str:
        if isinstance(value, str):
            value = value.strip()
            if not value:
                return ""
            with contextlib.suppress(ValueError):
                value = json.loads(value)
        return json.dumps(_thawed(value))


def _thawed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _thawed(item) for key, item in value.items()}
    return [_thawed(item) for item in value] if isinstance(value, list | tuple) else value


OVERRIDES = {
    **{key: OverrideParameter(text) for key, text in _GRID.items()},
    **{key: OverrideParameter(f"{setting.meaning} ({setting.allowed})") for key, setting in SETTINGS.items()},
}

# A base class that brings one parameter for each key of a study.
Overrides = type("Overrides", (), dict(OVERRIDES))


def given(task: Any) -> dict[str, Any]:
    """The overrides that were given, as plain values by key."""
    texts = {key: getattr(task, key) for key in OVERRIDES}
    return {key: json.loads(text) for key, text in texts.items() if text}
