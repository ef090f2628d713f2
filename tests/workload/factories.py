"""Factories as users write them: those that are measured, and those that must be refused."""

import torch


class Net(torch.nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.line = torch.nn.Linear(width, 4)

    def forward(self, x):
        return self.line(x)


def plain(batch_size):
    return Net().eval(), torch.randn(batch_size, 8)


def arguments(batch_size, dtype):
    return (lambda a, b: a @ b.T), (torch.randn(batch_size, 8, dtype=dtype), torch.randn(3, 8, dtype=dtype))


def named(batch_size):
    return (lambda *, x, scale: x * scale), {"x": torch.randn(batch_size, 8), "scale": 3.0}


def nested(batch_size):
    def call(inputs):
        (first, second), named = inputs["pair"], inputs["more"]
        return {"sum": first + second, "list": [named["third"] * 2]}

    a, b, c = (torch.randn(batch_size, 2) for _ in range(3))
    return call, ({"pair": (a, b), "more": {"third": c}},)


def tokens(batch_size, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 50, (batch_size, 6), generator=generator)
    return torch.nn.Sequential(torch.nn.Embedding(50, 4), torch.nn.Flatten(), torch.nn.Linear(24, 3)).eval(), ids


def integers(batch_size):
    return (lambda ids: ids * 2), torch.arange(batch_size * 3).view(batch_size, 3)


def mask(batch_size):
    return (lambda x, keep: x.masked_fill(~keep, 0.0)), (torch.randn(batch_size, 4), torch.rand(batch_size, 4) > 0.5)


def scalar(batch_size):
    return (lambda x: x.sum()), torch.randn(batch_size, 4)


def ragged(batch_size):
    rows = [torch.randn(batch_size, length) for length in (1, 5, 9)]
    return (lambda *rows: [row.mean(1) for row in rows]), tuple(rows)


def transposed(batch_size):
    return (lambda x: (x * 2).T), torch.randn(batch_size, 4)


def constants(batch_size):
    return (lambda x, name, factor, nothing: x * factor), (torch.randn(batch_size, 4), "name", 2.0, None)


def any_keyword(**offered):
    assert set(offered) == {"batch_size", "dtype", "device", "seed"}
    return Net().to(offered["device"]).eval(), torch.randn(offered["batch_size"], 8)


def half(batch_size, dtype, device):
    return Net().to(device, dtype).eval(), torch.randn(batch_size, 8).to(dtype)


def chosen(batch_size):
    """The shape follows the data, which is the same in every batch."""
    return (lambda x: x[x > 0]), torch.randn(batch_size, 8)


# Refused.


def alias(batch_size):
    return (lambda x: x.view(-1)), torch.randn(batch_size, 4)


def in_place(batch_size):
    return (lambda x: x.add_(1).sum(1)), torch.randn(batch_size, 4)


def dropout(batch_size):
    return torch.nn.Dropout(0.5).train(), torch.randn(batch_size, 40)


def changing(batch_size):
    calls = []

    def call(x):
        calls.append(x)
        return x[: len(calls)] * 2

    return call, torch.randn(batch_size, 4)


def empty(batch_size):
    return (lambda x, none: x * 2), (torch.randn(batch_size, 4), torch.empty(batch_size, 0))


def no_tensor(batch_size):
    return (lambda n: n), (batch_size,)


def returns_nothing(batch_size):
    return (lambda x: None), torch.randn(batch_size, 4)


def returns_infinity(batch_size):
    return (lambda x: x / 0), torch.randn(batch_size, 4)


def other_batch():
    return (lambda x: x * 2), torch.randn(7, 4)


def wants_more(batch_size, vocabulary):
    raise AssertionError("never called")


def not_a_pair(batch_size):
    return torch.randn(batch_size, 4)


def raises(batch_size):
    raise ValueError("no weights here")


def imports(batch_size):
    import a_package_that_nobody_has  # noqa: F401


not_callable = 7
