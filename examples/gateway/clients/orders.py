"""The sample orders, made a second time: what results are compared with.

`python orders.py FIRST ROWS` prints what these orders add up to, as JSON. Nothing here comes from the gateway
but the rule by which it makes its sample (src/sample.rs).
"""

import json
import sys

REGIONS = ["africa", "americas", "asia", "europe", "oceania"]
MASK = (1 << 64) - 1


def scramble(counter):
    bits = (counter + 1) * 0x9E3779B97F4A7C15 & MASK
    bits = (bits ^ (bits >> 32)) * 0xD6E8FEB86659FD93 & MASK
    return bits ^ (bits >> 32)


def order(number):
    """Region, quantity, amount in cents, whether there is a note."""
    bits = scramble(number)
    quantity = 1 + bits % 20
    amount = quantity * (100 + (bits >> 24) % 9_900)
    return REGIONS[(bits >> 8) % len(REGIONS)], quantity, amount, bits % 4 == 0


def totals(numbers):
    sums = {"rows": 0, "id": 0, "quantity": 0, "amount_cents": 0, "notes": 0}
    for number in numbers:
        _, quantity, amount, note = order(number)
        for name, value in zip(sums, (1, number, quantity, amount, int(note))):
            sums[name] += value
    return sums


def by_region(numbers):
    regions = {region: 0 for region in REGIONS}
    for number in numbers:
        region, _, amount, _ = order(number)
        regions[region] += amount
    return regions


if __name__ == "__main__":
    first, rows = int(sys.argv[1]), int(sys.argv[2])
    numbers = range(first, first + rows)
    print(json.dumps(totals(numbers) | {"by_region": by_region(numbers)}))
