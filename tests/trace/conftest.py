import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

FIXTURES = HERE.parent / "fixtures" / "traces"


@pytest.fixture(params=["h100_vit32x2x128_cuda_graph", "h200_vit32x6x512_eager"])
def real_export(request):
    return FIXTURES / f"{request.param}.sqlite.gz"


@pytest.fixture
def graph_export():
    return FIXTURES / "h100_vit32x2x128_cuda_graph.sqlite.gz"


@pytest.fixture
def eager_export():
    return FIXTURES / "h200_vit32x6x512_eager.sqlite.gz"
