"""Row counts for which decoding steps are captured. Pure Python."""

from __future__ import annotations

import bisect


class Buckets:
    """1, 2, 4, 8, 16, then every 16 rows to 128, every 32 to 256, every 64 beyond, and the largest itself.

    Padding is at most half of a small step and little of a large one, and the graphs stay few.
    """

    def __init__(self, max_rows: int) -> None:
        sizes = [1, 2, 4, 8, *range(16, 128, 16), *range(128, 256, 32), *range(256, max_rows, 64)]
        self.sizes = [*(size for size in sizes if size < max_rows), max_rows]

    def fitting(self, num_rows: int) -> int | None:
        """The smallest bucket that holds `num_rows`, None if they are more than any holds."""
        index = bisect.bisect_left(self.sizes, num_rows)
        return self.sizes[index] if index < len(self.sizes) else None
