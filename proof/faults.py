#!/usr/bin/env python3
"""Makes faults in the protocol, one at a time, in a copy of the proof, and requires that a named lemma breaks.

Run by `.ci/coq --faults`. A fault is one replacement in a file that says what the steps are. In the copy, the proofs
of all other lemmas are left out, so that the one that is named is what is checked; without the fault the same check
must pass, or it would prove nothing.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROOF = Path(__file__).parent

# name | file | what the step is | what the fault makes of it | file and lemma that must break | the broken step
FAULTS = [
    ("m01-no-grant-after-the-head-leaves", "Budget.v",
     "| x :: _ => if Nat.eqb x w then AtS2 [] else Exit Idle", "| x :: _ => Exit Idle",
     "BudgetInv.v", "keep_head", "L3"),
    ("m03-a-waiter-that-leaves-gives-bytes-back", "Budget.v",
     "(goto (set_phase (set_ending (set_gone (set_queue s (del w (queue s))) w) w (Some Left)) w Done) t",
     "(goto (set_phase (set_ending (set_gone (set_queue (set_wd s (add_room (wd s) (need w))) (del w (queue s))) w) w (Some Left)) w Done) t",
     "BudgetInv.v", "keep_bytes", "L3"),
    ("m02-a-grant-that-is-dropped-keeps-its-bytes", "Budget.v",
     "Granted, Drop => Release (need w)", "Granted, Drop => Idle",
     "BudgetInv.v", "keep_bytes", "L2"),
    ("m04-the-fast-path-ignores-the-queue", "Budget.v",
     "queued v = false /\\ closed v = false /\\ n <= room v.", "closed v = false /\\ closed v = false /\\ n <= room v.",
     "BudgetInv.v", "keep_snap", "A4"),
    ("join-does-not-set-the-flag", "Budget.v",
     "step s t J4wait (goto (set_wd s (set_queued (wd s) true)) t (AtJ5 w))", "step s t J4wait (goto s t (AtJ5 w))",
     "BudgetInv.v", "keep_flag", "J4"),
    ("m07-acquire-without-a-compare", "Budget.v",
     "pcs s t = Cas n v -> wd s = v ->", "pcs s t = Cas n v ->",
     "BudgetInv.v", "keep_bytes", "A4"),
    ("m09-first-fit", "Budget.v",
     "lock s = Some (t, AtS3 v b) -> queue s = w :: q -> shut s = false -> need w <= limit s ->\n    need w <= room v ->",
     "lock s = Some (t, AtS3 v b) -> In w (queue s) -> tl (queue s) = q -> shut s = false -> need w <= limit s ->\n    need w <= room v ->",
     "BudgetInv.v", "keep_ending", "S3"),
    ("m12-the-flag-goes-while-others-wait", "Budget.v",
     "(match q with [] => false | _ => queued (wd s) end)", "false",
     "BudgetInv.v", "keep_flag", "S3"),
    ("m13-one-batch-only", "Budget.v",
     "step s t S9done (set_pc s t (if m then Want Serve else Idle))", "step s t S9done (set_pc s t Idle)",
     "BudgetInv.v", "keep_head", "S9"),
    ("check-release-asks-nobody", "Budget.v",
     "(if queued (wd s) then Want Serve else Idle)", "Idle",
     "BudgetInv.v", "keep_head", "R5"),
    ("limit-raised-without-serving", "Budget.v",
     "step s t Z2 (goto (set_limit (set_wd s (add_room (wd s) (l - limit s))) l) t (AtS2 []))",
     "step s t Z2 (goto (set_limit (set_wd s (add_room (wd s) (l - limit s))) l) t (Exit Idle))",
     "BudgetInv.v", "keep_head", "Z2"),
    ("close-does-not-serve", "Budget.v",
     "(match drains s with [] => AtS2 [] | _ => AtX3 end))", "(Exit Idle))",
     "BudgetInv.v", "keep_head", "X2"),
    ("drain-without-the-flag", "Budget.v",
     "step s t D2 (goto (set_wd s (set_queued (wd s) true)) t (AtD3 w))",
     "step s t D2 (goto s t (AtD3 w))",
     "BudgetInv.v", "keep_flag", "D2"),
    ("lend-charge-without-a-compare", "Budget.v",
     "pcs s t = ShareCas n i a -> share s i = a -> recalled s i = false ->", "pcs s t = ShareCas n i a ->",
     "BudgetInv.v", "keep_bytes", "A7"),
    ("lend-release-ignores-the-recall", "Budget.v",
     "pcs s t = ReleaseCas n i a -> share s i = a -> recalled s i = false ->", "pcs s t = ReleaseCas n i a -> share s i = a ->",
     "BudgetInv.v", "keep_lent", "R4"),
    ("lend-while-somebody-waits", "Budget.v",
     "lock s = Some (t, AtG2) -> lent (wd s) = false -> queued (wd s) = false ->",
     "lock s = Some (t, AtG2) -> lent (wd s) = false ->",
     "BudgetInv.v", "keep_lent", "G3"),
    ("lend-flag-goes-first", "Budget.v",
     "step s t K1 (goto s t (AtK2 r 0 0))", "step s t K1 (goto (set_wd s (set_lent (wd s) false)) t (AtK2 r 0 0))",
     "BudgetInv.v", "keep_lent", "K1"),
    ("lend-recall-loses-what-a-share-had", "Budget.v",
     "(AtK2 r (S j) (z + share s j))", "(AtK2 r (S j) z)",
     "BudgetInv.v", "keep_bytes", "K2"),
    ("lend-join-does-not-recall", "Budget.v",
     "| Join w => AtK1 (AJoin w)", "| Join w => AtJ2 w",
     "BudgetInv.v", "keep_lent", "J2"),
    ("lend-charge-of-the-overflow", "Budget.v",
     "pcs s t = Slow n -> lent (wd s) = true -> n + overflow <= room (wd s) ->", "pcs s t = Slow n -> lent (wd s) = true -> n <= room (wd s) ->",
     "BudgetInv.v", "keep_own", "A12"),
    ("claim-put-back-overrides-the-doom", "Slot.v",
     "| u2 x : by_ s i = Held t x -> st s i = Claimed ->", "| u2 x : by_ s i = Held t x ->",
     "Slot.v", "doomed_stays_doomed", "U2"),
    ("slot-two-step-take", "Slot.v",
     "| t2 x now : st s i = Live (fp x) ->", "| t2 x now :",
     "Slot.v", "slots_step", "T2"),
    ("slot-owner-not-compared", "Slot.v",
     "| t4 x now e : by_ s i = Won t x now -> cell s i = Some e -> e = x ->",
     "| t4 x now e : by_ s i = Won t x now -> cell s i = Some e ->",
     "Slot.v", "delivered_to_its_owner", "T3"),
    ("claim-doomed-slot-freed-by-the-clear", "Slot.v",
     "sstep s t i U3 (set_slot s i Doomed (cell s i) (by_ s i)).",
     "sstep s t i U3 (set_slot s i Free None (by_ s i)).",
     "Slot.v", "slots_step", "U3"),
    ("bound-of-the-block-not-lowered", "Bounds.v",
     "bstep s t P4 (set_pc (set_val s 1 (anc 1 i) (Nat.min (val s 1 (anc 1 i)) d)) t (lowered i n d 1))",
     "bstep s t P4 (set_pc s t (lowered i n d 1))",
     "Bounds.v", "owed_step", "P4"),
    ("bound-of-the-shard-not-lowered", "Bounds.v",
     "(Nat.min (val s k (anc k i)) d)) t (lowered i n d k))", "(Nat.min (val s k (anc k i)) d)) t Idle)",
     "Bounds.v", "owed_step", "P5"),
    ("bound-the-sweep-forgets-what-a-put-lowered", "Bounds.v",
     "(Nat.min (val s k (nd w k)) (left_ w k))) k (nd w k) None)", "(left_ w k)) k (nd w k) None)",
     "Bounds.v", "val_step", "W3"),
    ("sweep-leaves-no-mark", "Bounds.v",
     "(set_pc (set_own (set_val s k x never) k x (Some t)) t", "(set_pc (set_own (set_val s k x never) k x None) t",
     "Bounds.v", "val_step", "W1"),
    ("sweep-stops-at-a-bound-that-is-sweeping", "Bounds.v",
     "    own s k x = None -> now w < val s k x ->\n    bstep s t W1later", "    now w < val s k x ->\n    bstep s t W1later",
     "Bounds.v", "ahead_step", "W1"),
    ("sweep-forgets-the-rest-after-a-full-batch", "Bounds.v",
     "(upd (left_ w) k 0) (upd (dn w) k (fun _ => true))", "(left_ w) (upd (dn w) k (fun _ => true))",
     "Bounds.v", "ahead_stop", "W3"),
    ("sweep-ignores-another-s-guard", "Bounds.v",
     "(set_pc s t (Sweeping 1 (meet (pass w 1 i (dl s i)) i)))", "(set_pc s t (Sweeping 1 (meet (skip w 1 i) i)))",
     "Bounds.v", "ahead_step", "W5"),
    ("sweep-restores-and-leaves-no-deadline", "Bounds.v",
     "bstep s t W6 (set_pc (set_ph s i Live) t (Sweeping 1 (pass w 1 i (dl s i))))",
     "bstep s t W6 (set_pc (set_ph s i Live) t (Sweeping 1 (skip w 1 i)))",
     "Bounds.v", "ahead_step", "W6"),
    ("claim-renewed-sweep-trusts-what-it-observed", "Bounds.v",
     "| w2 i w : pcs s t = Guarded i w -> dl s i <= now w ->", "| w2 i w : pcs s t = Guarded i w ->",
     "Bounds.v", "only_what_is_due", "W2"),
    ("claim-put-back-leaves-the-bounds", "Bounds.v",
     "bstep s t U2 (go_live s t i)", "bstep s t U2 (set_ph s i Live)",
     "Bounds.v", "same_life", "U2"),
    ("claim-renewed-after-it-is-live", "Bounds.v",
     "| u4 i d : ph s i = Claimed ->", "| u4 i d : ph s i = Claimed \\/ ph s i = Live ->",
     "Bounds.v", "same_life", "U4"),
    ("sweep-does-not-confirm-a-missing-segment", "Bounds.v",
     "up k x = nd w (S k) -> there s k x = false ->", "up k x = nd w (S k) ->",
     "Bounds.v", "ahead_step", "N2"),
    ("slot-used-before-its-segment-is-there", "Bounds.v",
     "| p1 i : pcs s t = Idle -> ph s i = Free -> (forall k, 1 <= k < top -> there s k (anc k i) = true) ->",
     "| p1 i : pcs s t = Idle -> ph s i = Free ->",
     "Bounds.v", "keep_there", "N1"),
]

PROOF_OF = re.compile(r"((?:Lemma|Theorem) (\w+).*?)Proof\.(.*?)Qed\.", re.S)


def coqc(where, file):
    return subprocess.run(["coqc", "-q", file], cwd=where, capture_output=True, text=True, timeout=1800)


def only(text, lemma):
    """The file with the proofs of all others left out, up to the end of the one that is checked."""
    found = []

    def shorten(match):
        if match[2] == lemma:
            found.append(match[0])
            return match[0]
        return f"{match[1]}Proof. Admitted."

    text = PROOF_OF.sub(shorten, text)
    assert len(found) == 1, lemma
    return text


def check(common, name, file, old, new, where, lemma):
    """Whether the lemma breaks with the fault, and what Coq says."""
    with tempfile.TemporaryDirectory() as copy:
        copy = Path(copy)
        for source in PROOF.glob("*.v"):
            (copy / source.name).write_text(source.read_text())
        shutil.copy(common / "Base.vo", copy)
        if old is not None:
            text = (copy / file).read_text()
            assert text.count(old) == 1, f"{name}: the step is there {text.count(old)} times"
            (copy / file).write_text(text.replace(old, new))
        (copy / where).write_text(only((copy / where).read_text(), lemma))
        for needed in ["Budget.v"] if where.startswith("Budget") else []:
            result = coqc(copy, needed)
            # A fault that is no transition system at all shows nothing.
            assert result.returncode == 0, f"{name}: {needed} does not build: {result.stderr}"
        result = coqc(copy, where)
        line = re.search(r"line (\d+)", result.stderr)
        broken = None
        if result.returncode and line:
            lines = (copy / where).read_text().splitlines()[: int(line[1])]
            broken = next((m[1] for m in (re.match(r"(?:Lemma|Theorem) (\w+)", l) for l in reversed(lines)) if m), None)
        return result.returncode != 0, broken, " ".join(result.stderr.split())


def main():
    wanted = sys.argv[1:]
    faults = [f for f in FAULTS if not wanted or any(f[0].startswith(w) for w in wanted)]
    sound = sorted({(f[4], f[5]) for f in faults})
    failed = False
    with tempfile.TemporaryDirectory() as common, ThreadPoolExecutor(2 * os.cpu_count()) as pool:
        common = Path(common)
        shutil.copy(PROOF / "Base.v", common)
        assert coqc(common, "Base.v").returncode == 0
        with_fault = pool.map(lambda f: check(common, *f[:6]), faults)
        without = pool.map(lambda lemma: check(common, "none", None, None, None, *lemma), sound)
        print("| fault | step | breaks |\n|---|---|---|")
        for (name, *_, lemma, step), (broke, broken, message) in zip(faults, with_fault):
            if broke and broken == lemma:
                print(f"| {name} | {step} | {lemma} |", flush=True)
            else:
                failed = True
                print(f"error: {name}: {lemma} holds, or something else broke: {broken}: {message}", file=sys.stderr)
        for (where, lemma), (broke, _, message) in zip(sound, without):
            if broke:
                failed = True
                print(f"error: {lemma} does not hold without a fault: {message}", file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
