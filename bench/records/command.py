"""A command of a user that a study measures, as its block `command` has it."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bench.records.base import Name, Record
from bench.records.metric import Better, MetricName, Read, Unit

# The kernel takes no longer argument.
Argument = Annotated[str, Meta(max_length=131_071, pattern="^[^\\x00]*$")]
Arguments = tuple[Argument, ...]
VariableName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}(?!\n)$")]
# A name, or the beginning of names, as NCCL_*.
VariablePattern = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}\*?(?!\n)$")]
WholePath = Annotated[str, Meta(max_length=4096, pattern="^[^\\x00]*$")]


class Pattern(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric in the output: regex has one group around the number; the last match counts.

    With another group, (?P<rank>...), that of each rank: the metric is that of the slowest rank, and NAME_straggler is
    the time that it takes over that of the median rank.
    """

    regex: Annotated[str, Meta(min_length=1, max_length=4096)]
    unit: Unit
    better: Better


class Command(Record, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is started, and where its numbers are. Arguments are as written, with tokens such as {port}.

    server: started before `run`, and then alone bound and judged; ready: a URL that answers with a status below 400,
    else a regex of a line that the server writes. metrics: in place of read. primary: replaces the metric that `read`
    suggests. gpus: the command sees the cell's GPU, or all. client_cpus: of `run` beside a server: outside the
    server's node, on it, or all. pass_env: variables whose values are passed and never stored. cwd: an absolute path.
    evict: files that leave the page cache before each run. warmup_runs: starts that do not count, before the first.
    """

    run: Annotated[Arguments, Meta(min_length=1)]
    server: Arguments = ()
    ready: Annotated[str, Meta(max_length=4096)] = ""
    read: Read = Read.JSON
    metrics: dict[MetricName, Pattern] = {}
    primary: MetricName | None = None
    gpus: Literal["one", "all"] = "one"
    client_cpus: Literal["other", "same", "all"] = "other"
    env: dict[VariableName, Argument] = {}
    pass_env: tuple[VariablePattern, ...] = ()
    cwd: WholePath = ""
    evict: tuple[WholePath, ...] = ()
    warmup_runs: Annotated[int, Meta(ge=0, le=100)] = 0

    def __hash__(self) -> int:
        return hash(msgspec.json.encode(self))

    @property
    def measured(self) -> Arguments:
        """The process that is bound and judged."""
        return self.server or self.run

    @property
    def identity(self) -> dict[str, Any]:
        """By which a history knows it: what is started, and which number is read."""
        keys = ("run", "server", "ready", "read", "metrics", "primary", "gpus", "client_cpus", "env", "pass_env")
        return {key: value for key, value in msgspec.to_builtins(self).items() if key in keys}


class CommandBlock(Command, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The block of a study file. variants: by name, the keys that replace those of the block."""

    variants: dict[Name, dict[str, Any]] = {}

    def __hash__(self) -> int:
        return hash(msgspec.json.encode(self))
