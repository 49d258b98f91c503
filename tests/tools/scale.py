"""On paper: how long a large set takes on larger machines, from what a file took on this one.

    python -m tests.tools.scale --files 1000000 --processor-ms 25 --megabytes 0.53

Processor time a file is what `tests.tools.folders` prints. Files know nothing of each other, so
processors share them evenly; storage is shared by all. A file is read twice across a network (when
the folder is scanned, and when it is written; the second reading serves the checksum, too) and
written once; what was written is read back from memory. The time of the longer of both is taken,
as they overlap. A fit comes on top: it looks at 20,000 images at the most, whatever the set, and
is not part of this. Prices are assumptions to be replaced by your own.
"""

import argparse
import sys

from tests.tools.tables import table

TRANSFERS = 3


def duration(seconds: float) -> str:
    """In the unit that a person would use."""
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def rows_for(options: argparse.Namespace) -> list[list[str]]:
    """One for each number of GPUs."""
    work = options.files * options.processor_ms / 1000
    moved = options.files * options.megabytes * TRANSFERS
    rows = []
    for gpus in options.gpus:
        cores = gpus * options.cores
        by_cores, by_storage = work / cores, moved / options.storage
        longest = max(by_cores, by_storage)
        price = (gpus * options.gpu_price + cores * options.core_price) * longest / 3600
        alone = cores * options.core_price * longest / 3600
        rows.append(
            [
                *(f"{options.files:,}", str(gpus), str(cores), duration(by_cores)),
                *(duration(by_storage), "processors" if by_cores > by_storage else "storage"),
                *(f"{longest * cores / 3600:,.0f}", f"{alone:,.2f}", f"{price:,.2f}"),
            ]
        )
    return rows


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--processor-ms", type=float, required=True, help="a file, one process")
    parser.add_argument("--megabytes", type=float, required=True, help="a file")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--cores", type=int, default=16, help="beside each GPU")
    parser.add_argument("--storage", type=float, default=2000, help="shared by all, MB/s")
    parser.add_argument("--core-price", type=float, default=0.05, help="an hour")
    parser.add_argument("--gpu-price", type=float, default=3.0, help="an hour")
    options = parser.parse_args()
    header = ["files", "GPUs", "cores", "processors take", "storage takes", "saturates first"]
    header += ["core-hours", "cost without the GPUs", "cost with them"]
    sys.stdout.write(table(header, rows_for(options)) + "\n")


if __name__ == "__main__":
    main()
