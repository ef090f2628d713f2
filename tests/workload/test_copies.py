import torch

from bench.workload.devices import CpuDevice
from bench.workload.microbenchmark import make_route, train_s


def test_train_copies_its_pairs_in_turn():
    source = torch.arange(6.0).view(3, 2)
    target = torch.zeros(3, 2)
    route = make_route(CpuDevice(), [(target[i], source[i]) for i in range(3)])
    assert train_s(CpuDevice(), [route], 2) > 0
    assert target.tolist() == [[0, 1], [2, 3], [0, 0]]
    train_s(CpuDevice(), [route], 3)
    assert torch.equal(target, source)


def test_routes_go_side_by_side():
    targets = [torch.zeros(2), torch.zeros(2)]
    routes = [make_route(CpuDevice(), [(target, torch.ones(2))]) for target in targets]
    train_s(CpuDevice(), routes, 1)
    assert all(target.all() for target in targets)
