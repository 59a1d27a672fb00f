"""What encoding one image costs, counted from the tower."""

from collections.abc import Sequence

from winclip_bench.clip.towers import Tower


def sequence_lengths(grid: int, scales: Sequence[int], prefix: int = 1) -> list[tuple[int, int]]:
    """(how many sequences, of how many tokens) per image: the whole image first, then each scale's windows;
    prefix is 1 with a class token.

    >>> sequence_lengths(15, [2, 3])
    [(1, 226), (196, 5), (169, 10)]
    """
    return [(1, grid**2 + prefix), *(((grid - side + 1) ** 2, side**2 + prefix) for side in scales)]


def flops(tower: Tower, scales: Sequence[int], shared: bool = True) -> float:
    """Floating-point operations of the blocks per image, a multiplication and an addition counted as two.

    shared   as `encode` does it; otherwise every sequence through every block from its tokens on
    """
    lengths = sequence_lengths(tower.grid, scales, tower.prefix)
    rows = sum(count * length for count, length in lengths)
    total = 0.0
    for index, block in enumerate(tower.blocks):
        qkv = 2.0 * block.qkv.weight.numel()
        rest = 2.0 * (block.out.weight.numel() + block.mlp.parameters)
        size = block.out.weight.shape[1]
        attention = sum(4.0 * count * length**2 * size for count, length in lengths)
        if shared and index == 0 and len(tower.blocks) > 1:
            total += lengths[0][1] * qkv + attention + rows * rest
        elif shared and index == len(tower.blocks) - 1 and tower.class_token_pooling:
            windows = sum(count for count, _ in lengths[1:])
            window_rows = rows - lengths[0][1]
            attention = 4.0 * size * (lengths[0][1] ** 2 + sum(count * length for count, length in lengths[1:]))
            total += lengths[0][1] * (qkv + rest) + window_rows * qkv * 2 / 3 + windows * (qkv / 3 + rest) + attention
        else:
            total += rows * (qkv + rest) + attention
    return total
