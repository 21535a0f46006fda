"""Which row takes which place of a training."""

from selftaught.records.seeds import generator


def row_order(num_rows: int, *, num_places: int, seed: int) -> list[int]:
    """Which row takes each of the `num_places` places of a training: epoch after epoch, each a new permutation.

    Every row is used floor(num_places / num_rows) times or once more. Raises ValueError without rows.
    """
    if num_rows < 1:
        raise ValueError("row_order needs at least one row")
    order: list[int] = []
    epoch = 0
    while len(order) < num_places:
        permutation = list(range(num_rows))
        generator(seed, "epoch", epoch).shuffle(permutation)
        order += permutation
        epoch += 1
    return order[:num_places]
