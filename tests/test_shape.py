import pytest

from bench.shape import COUNT, FLAG, NAME, NUMBER, PLAIN, POSITIVE, TEXT, TEXTS, Each, Must, OneOf, misfit, parse

SHAPE = {"a": Must(NUMBER), "b": [Must({"c": TEXT})], "d": Each(FLAG), "e": OneOf(("x", 1))}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": 1}, None),
        ({"a": 1.5, "b": None, "d": None, "e": None, "other": object()}, None),
        ({"a": 1, "b": [{}, {"c": "t"}], "d": {"anything": True}, "e": 1}, None),
        ({}, "a is missing"),
        ({"a": None}, "a is missing"),
        ({"a": True}, "a is True, not a number"),
        ({"a": 10**400}, "a is 1000"),
        ({"a": 1, "b": {}}, "b is a dict, not a list"),
        ({"a": 1, "b": [None]}, "b[0] is missing"),
        ({"a": 1, "b": [{"c": 1}]}, "b[0].c is 1, not a text"),
        ({"a": 1, "d": {"k": 1}}, "d.k is 1, not true or false"),
        ({"a": 1, "e": True}, "e is True, not one of x, 1"),
        ([], "it is a list, not a mapping"),
    ],
)
def test_the_first_misfit_is_named_with_its_place(value, said):
    found = misfit(value, SHAPE)
    assert found is None if said is None else found.startswith(said)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (COUNT, [0, -3], [1.0, True, "1"]),
        (POSITIVE, [1e-9], [0, -1, float("nan"), float("inf")]),
        (PLAIN, ["t", 1, False], [[], {}]),
        (TEXT, ["", "ä"], ["\ud800", 1]),
        (TEXTS, ["t", ["t", "u"], []], [["t", 1], 1]),
        (
            NAME,
            ["pipeline_gpu0_numa0_vit0x0x0", "a.b-c"],
            ["", "..", ".a", "a/b", "a\\b", "a\0", "a b", "ä", "x" * 256],
        ),
    ],
    ids=lambda kind: getattr(kind, "name", None),
)
def test_kinds(kind, good, bad):
    assert [value for value in good if not kind.fits(value)] == []
    assert [value for value in bad if kind.fits(value)] == []


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"9" * 5000, "not valid JSON"),
        (b"\xff{}", "not valid JSON"),
        (b"[]", "not a record but a list"),
        (b'{"a": 1, "x": "\\ud800"}', "no Unicode"),
        (b'{"a": NaN}', "a is missing"),
        (b'{"a": 1e999}', "a is missing"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line(raw, said):
    found = parse(raw, SHAPE)
    assert isinstance(found, str) and said in found and "\n" not in found


def test_numbers_that_json_does_not_know_are_unknown():
    assert parse(b'{"a": 1, "x": [NaN, Infinity, 1e999, 0.5]}', SHAPE) == {"a": 1, "x": [None, None, None, 0.5]}
