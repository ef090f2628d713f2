"""Overrides of a study as luigi parameters: JSON, or a plain word."""

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import luigi

from bench.study import settings


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


OVERRIDES = {key: OverrideParameter(text) for key, text in settings.OVERRIDES.items()}

# A base class that brings one parameter for each key of a study.
Overrides = type("Overrides", (), dict(OVERRIDES))


def given(task: Any) -> dict[str, Any]:
    """The overrides that were given, as plain values by key."""
    texts = {key: getattr(task, key) for key in OVERRIDES}
    return {key: json.loads(text) for key, text in texts.items() if text}
