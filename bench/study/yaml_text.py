"""YAML that a user wrote: a key given twice, aliases without end and endless integers are refused, by line."""

from pathlib import Path
from typing import Any

import yaml

from bench.errors import StudyError

LARGEST_FILE_BYTES = 1 << 20
_MOST_DIGITS = 100


def parse_yaml(text: str, path: Path, aliases: bool = True) -> Any:
    """The content of a file that a user wrote. Raise StudyError if it is not YAML or has a key twice.

    aliases: whether anchors and aliases are allowed.
    """
    try:
        return yaml.load(text, _UniqueKeys if aliases else _PlainYaml)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        advice = error.advice if isinstance(error, _Refused) else ""
        what = str(error.problem) if isinstance(error, _Refused) else f"not valid YAML: {_problem(error)}"
        raise StudyError(what, where, advice) from None


def _problem(error: Exception) -> object:
    return getattr(error, "problem", error)


class _Refused(yaml.MarkedYAMLError):
    def __init__(self, problem: str, mark: yaml.Mark, advice: str) -> None:
        super().__init__(problem=problem, problem_mark=mark)
        self.advice = advice


class _UniqueKeys(yaml.SafeLoader):
    """yaml itself silently takes the last of two equal keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Each mapping passes here once, as written: what `<<` merges into it, and may repeat, is added later.
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            identity = key.tag, key.value
            if identity in first:
                problem = f"the key {key.value} is given twice, first in line {first[identity]}"
                raise _Refused(problem, key.start_mark, "keep one of them, with what belongs to both")
            first[identity] = key.start_mark.line + 1
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        # Python writes no integer of thousands of digits, not even into an error, and YAML has base 60 too.
        if len(node.value) > _MOST_DIGITS:
            raise _Refused(f"an integer of {len(node.value)} characters", node.start_mark, "no setting is so large")
        return super().construct_yaml_int(node)


_UniqueKeys.add_constructor("tag:yaml.org,2002:int", _UniqueKeys.construct_yaml_int)


class _PlainYaml(_UniqueKeys):
    """Without aliases: an alias of an alias of an alias is small in the file and endless for whoever reads it."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # types-PyYAML does not annotate it
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _Refused("YAML anchors and aliases are not allowed", event.start_mark, "write the values out")
        return super().compose_node(parent, index)
