"""On paper: how long a large set takes on larger machines, from what a file took on this one.

    python -m tests.tools.scale --files 1000000 --plan-ms 2 --write-ms 26 --megabytes 0.53

Processor time a file is what `tests.tools.folders` prints; the share of planning is what `medshield
scan` takes. A plan is made by the processors of one machine; then all share the writing evenly, as
files know nothing of each other. Storage is shared by all: a file is read twice across a network
(when the folder is scanned, and when it is written; that reading serves the checksum, too) and
written once, and what was written is read back from memory. Processors and storage overlap, so the
longer of both counts. A fit comes on top: it looks at 20,000 images at the most, whatever the set,
and is not part of this. Prices are assumptions to be replaced by your own.
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
    plan, write = (
        options.files * each / 1000 / options.cores for each in (options.plan_ms, options.write_ms)
    )
    moved = options.files * options.megabytes * TRANSFERS
    rows = []
    for gpus in options.gpus:
        cores = gpus * options.cores
        by_cores, by_storage = plan + write / gpus, moved / options.storage
        longest = max(by_cores, by_storage)
        times = {"planning": plan, "writing": write / gpus, "storage": by_storage}
        price = (gpus * options.gpu_price + cores * options.core_price) * longest / 3600
        alone = cores * options.core_price * longest / 3600
        rows.append(
            [
                *(f"{options.files:,}", str(gpus), str(cores), *map(duration, times.values())),
                *(duration(longest), max(times, key=lambda name: times[name])),
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
    parser.add_argument("--plan-ms", type=float, required=True, help="of a processor, a file")
    parser.add_argument("--write-ms", type=float, required=True, help="of a processor, a file")
    parser.add_argument("--megabytes", type=float, required=True, help="a file")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--cores", type=int, default=16, help="beside each GPU")
    parser.add_argument("--storage", type=float, default=2000, help="shared by all, MB/s")
    parser.add_argument("--core-price", type=float, default=0.05, help="an hour")
    parser.add_argument("--gpu-price", type=float, default=3.0, help="an hour")
    options = parser.parse_args()
    header = ["files", "GPUs", "cores", "planning", "writing", "storage", "in all"]
    header += ["saturates first", "core-hours", "cost without the GPUs", "cost with them"]
    sys.stdout.write(table(header, rows_for(options)) + "\n")


if __name__ == "__main__":
    main()
