"""Sizes of padded arrays, few of them, and what says that they were too large."""

from __future__ import annotations


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in any of XLA's words for it."""
    text = str(error)
    said = "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
    return isinstance(error, MemoryError) or said


def round_up(size: int, steps: int) -> int:
    """The next of the sizes that have `steps` steps from each power of two to the next.

    With 2 steps: 1, 2, 3, 4, 6, 8, 12, 16; with 4: 1 to 8, 10, 12, 14, 16, 20. At most
    1 / `steps` of a size is added.
    """
    unit: int = 1 << ((size - 1) // (2 * steps)).bit_length()
    return -(-size // unit) * unit


def usual_block(columns: int) -> int:
    """The block of codes at which the `halo` head of so many columns samples fastest on a CPU.

    At 1,301 columns (`benches/generator_ours.py head 1301 768 256 OUT.npy BLOCK`) 96 takes an
    eighth less time than 128, and than 64. Accelerators, whose tiles are 128 wide, may want that.
    """
    return 96 if columns < 4096 else 256


def blocks_of(tokens: int, block: int) -> tuple[int, int]:
    """How many blocks of how many tokens hold `tokens`, about `block` to each."""
    if tokens <= block:
        return 1, min(block, round_up(tokens, 2))
    return round_up(-(-tokens // block), 4), block
