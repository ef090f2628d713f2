import pytest

from bench.study.settings import parse_option


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("gpu_ids", "0", [0]),
        ("gpu_ids", " 0, 1 ", [0, 1]),
        ("gpu_ids", "[0]", [0]),
        ("gpu_ids", "all", "all"),
        ("numa_nodes", "2", [2]),
        ("numa_nodes", "2,0", [2, 0]),
        ("gpu_ids", "0-2,7", [0, 1, 2, 7]),
        ("gpu_ids", "3-1", ["3-1"]),
        ("gpu_ids", "0-99999999", ["0-99999999"]),
        ("sweep", "batch_size=1,10", {"batch_size": [1, 10]}),
        ("sweep", "dtype=fp32,bf16 cuda_graph=true,false", {"dtype": ["fp32", "bf16"], "cuda_graph": [True, False]}),
        ("sweep", "numa_nodes=all gpu_ids=0-1", {"numa_nodes": "all", "gpu_ids": [0, 1]}),
        ("axes", '{"depth": [2, 4]}', {"depth": [2, 4]}),
        ("sweep", "batch_size", "batch_size"),
        ("exclude", "dtype=bf16 depth=2,4", [{"dtype": "bf16", "depth": [2, 4]}]),
        ("include", "batch_size=64", [{"batch_size": 64}]),
        ("zip", "gpu_ids=0-1 numa_nodes=0,2", [{"gpu_ids": [0, 1], "numa_nodes": [0, 2]}]),
        ("models", "vit32x2x128,timm:resnet50", ["vit32x2x128", "timm:resnet50"]),
        ("models", '["vit32x2x128"]', ["vit32x2x128"]),
        ("models", "[vit32x2x128]", "[vit32x2x128]"),
        ("python_path", "src", ["src"]),
        ("batch_size", "5", 5),
        ("dtype", "bf16", "bf16"),
        ("command", "python a.py --list 1,2", "python a.py --list 1,2"),
    ],
)
def test_options_are_json_words_or_lists_with_commas(key, text, value):
    assert parse_option(key, text) == value
