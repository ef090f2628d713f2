"""Trains of copies, timed by events: the one way in which the link is measured."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.workload.devices import Device

# What the CPU may take to issue one copy while the stream is held back.
ISSUE_S = 10e-6
MAX_HOLD_S = 0.02


@dataclass(frozen=True)
class Route:
    """Copies of one direction on one stream: (target, source) in turn."""

    stream: Any
    select: Callable[[], None]
    pairs: list[tuple[torch.Tensor, torch.Tensor]]


def make_route(device: Device, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> Route:
    stream = device.stream()
    return Route(stream, device.selector(stream), pairs)


def train_s(device: Device, routes: Sequence[Route], count: int) -> float:
    """Seconds from the common start of all routes to the end of the last one, `count` copies on each.

    They are issued while the first stream is held back, so that small copies too follow each other at the
    device's pace and not at the CPU's.
    """
    start = device.event(timing=True)
    ends = [device.event(timing=True) for _ in routes]
    device.hold(routes[0].stream, min(MAX_HOLD_S, count * len(routes) * ISSUE_S))
    start.record(routes[0].stream)
    for route in routes[1:]:
        start.wait(route.stream)
    for index in range(count):
        for route in routes:
            target, source = route.pairs[index % len(route.pairs)]
            route.select()
            target.copy_(source, non_blocking=True)
    for route, end in zip(routes, ends, strict=True):
        end.record(route.stream)
    device.synchronize()
    return max(start.elapsed_time(end) for end in ends) / 1e3
