"""A decode step whose KV cache is in host memory, paged: every step copies the blocks of its sequences in.

The shape is that of Llama 3 8B: 32 layers, 32 query heads, 8 heads of keys and values, 128 channels a head. A block is
2 MiB, keys and values of all layers for 16 tokens in bf16. Only the attention is computed: no weights.
"""

import torch

LAYERS, HEADS, KV_HEADS, CHANNELS = 32, 32, 8, 128
BLOCK_BYTES = 2 << 20
BLOCKS = 16
"""Of each sequence: 256 tokens in bf16."""


def make(batch_size: int, dtype: torch.dtype, seed: int):
    """A callable of the queries of one token for each of batch_size sequences, and the blocks of their caches."""
    generator = torch.Generator().manual_seed(seed)
    tokens = BLOCK_BYTES // (LAYERS * 2 * KV_HEADS * CHANNELS * dtype.itemsize)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    queries = drawn(batch_size, LAYERS, HEADS, CHANNELS)
    block = drawn(LAYERS, 2, KV_HEADS, tokens, CHANNELS)
    # Blocks of their own: each is copied by itself, as pages of a cache are.
    blocks = [block.roll(number, dims=-1) for number in range(batch_size * BLOCKS)]
    return decode, (queries, blocks)


def decode(queries: torch.Tensor, blocks: list[torch.Tensor]) -> torch.Tensor:
    """batch x layers x (heads * channels)"""
    batch = len(queries)
    cache = torch.stack(blocks).view(batch, -1, *blocks[0].shape)
    # batch, layers, keys and values, heads, blocks, tokens, channels
    cache = cache.permute(0, 2, 3, 4, 1, 5, 6).reshape(batch * LAYERS, 2, KV_HEADS, -1, CHANNELS)
    query = queries.view(batch * LAYERS, HEADS, 1, CHANNELS)
    attended = torch.nn.functional.scaled_dot_product_attention(query, cache[:, 0], cache[:, 1], enable_gqa=True)
    return attended.view(batch, LAYERS, -1)
