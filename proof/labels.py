#!/usr/bin/env python3
"""Holds the steps of the proof, of the code, and of docs/proof.md together: each step that the proof has stands in src/ at
exactly one place, as `// Step A4.` on a line of its own, and in a listing of docs/proof.md; and each that stands there is
a step of the proof. Needs no Coq."""
import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent

proved = set()
for file, name in [("Budget.v", "label"), ("Slot.v", "slabel"), ("Bounds.v", "blabel")]:
    text = (ROOT / "proof" / file).read_text()
    # One step has several constructors if it has several outcomes: J4 and J4wait.
    for listed in re.findall(rf"Inductive {name} :=(.*?)\.\n", text, re.S):
        proved |= set(re.findall(r"\| ([A-Z]\d+)", listed))
    stepped = set(re.findall(r"step s t (?:i )?\(?([A-Z]\d+)", text))
    assert stepped and stepped <= proved, stepped - proved

places = Counter()
for source in sorted((ROOT / "src").rglob("*.rs")):
    for line in source.read_text().splitlines():
        if found := re.search(r"// Step ([A-Z]\d+)\.", line):
            assert line.strip().startswith("// Step "), f"{source}: a step shares its line with code: {line}"
            places[found[1]] += 1

page = (ROOT / "docs" / "proof.md").read_text()
listings = "\n".join(re.findall(r"^```text\n(.*?)^```", page, re.S | re.M))
documented = set(re.findall(r"(?:^|  )([A-Z]\d+)  ", listings, re.M))

errors = [f"step {step} of the proof stands nowhere in src/" for step in proved - set(places)]
errors += [f"step {step} of src/ is not in the proof" for step in set(places) - proved]
errors += [f"step {step} stands at {n} places in src/" for step, n in places.items() if n > 1]
errors += [f"step {step} of the proof is not in a listing of docs/proof.md" for step in proved - documented]
errors += [f"step {step} of docs/proof.md is not in the proof" for step in documented - proved]
for error in sorted(errors):
    print(f"error: {error}", file=sys.stderr)
if not errors:
    print(f"{len(proved)} steps of the proof, each at one place in src/, and in docs/proof.md")
sys.exit(bool(errors))
