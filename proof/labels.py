#!/usr/bin/env python3
"""Holds the steps of the proof and those of the code together: each step that the proof has stands in src/ at exactly
one place, as `// Step C3.`, and each such comment names a step of the proof. docs/proof.md has them all, too."""
import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent

proved = set()
for file, name in [("Budget.v", "label"), ("Slot.v", "slabel")]:
    text = (ROOT / "proof" / file).read_text()
    listed = re.search(rf"Inductive {name} :=(.*?)\.\n", text, re.S)[1]
    # J4 and J4wait are one step with two outcomes.
    proved |= set(re.findall(r"\| ([A-Z]\d+)", listed))

places = Counter()
for source in sorted((ROOT / "src").rglob("*.rs")):
    places.update(re.findall(r"// Step ([A-Z]\d+)\.", source.read_text()))

documented = set(re.findall(r"\b([A-Z]\d+)  ", (ROOT / "docs" / "proof.md").read_text()))

errors = [f"step {step} of the proof stands nowhere in src/" for step in proved - set(places)]
errors += [f"step {step} of src/ is not in the proof" for step in set(places) - proved]
errors += [f"step {step} stands at {n} places in src/" for step, n in places.items() if n > 1]
errors += [f"step {step} of the proof is not in docs/proof.md" for step in proved - documented]
for error in sorted(errors):
    print(f"error: {error}", file=sys.stderr)
if not errors:
    print(f"{len(proved)} steps, each at one place in src/")
sys.exit(bool(errors))
