(** The budget's protocol as a transition system: any number of threads, waiters, shares that room is lent to, requests of
    any size, and batches of any size. Without shares it is the protocol without lending. Each step is one atomic
    operation on the state or a share, or what the holder of the lock does between two; its label is the one that
    docs/proof.md and the comments in src/ use. What is only a hint there (which sizes go to a share, how large a batch
    is, when to lend, whether a try of the lock succeeds) is any choice here. *)
Require Import Base.

(** * The state *)

(** The packed word, one atomic. [lent]: some of the limit's room may be in the shares. *)
Record word := Word { room : Z; queued : bool; closed : bool; lent : bool }.

(** How a waiter's time in the queue ended. [Drained] is for those that wait for the budget to be empty. *)
Inductive outcome := Granted | Closed | TooLarge | Left | Drained.

Inductive refusal := Full | RefusedClosed | RefusedTooLarge | QueueFull.

(** Which future gives up, and what it does with bytes that were granted before: dropped, it releases them; if
    what it gives up for has completed, the grant wins. *)
Inductive how := Drop | Until.

(** Calls that take the lock, before they have it. *)
Inductive call :=
| Serve | Charge (n : Z) | Used | Join (w : nat) | Leave (w : nat) (h : how) | Resize (limit : Z) | Close
| JoinDrains (w : nat) | LeaveDrains (w : nat).

(** Where a thread stands without the lock. [Locked] is the thread that has it. *)
Inductive pc :=
| Idle
| Locked
| Load (n : Z)                               (* about to read the word, for a charge of n *)
| Cas (n : Z) (v : word)                     (* it read v, which admits n *)
| Reread (n : Z)                             (* refused, unless a second look says otherwise *)
| Share (n : Z) (i : nat)                    (* about to read share i, for a charge *)
| ShareCas (n : Z) (i : nat) (a : Z)         (* it read a there *)
| Try (n : Z) (i : nat)                      (* about to try the lock, to borrow for share i *)
| Slow (n : Z)                               (* about to read the word again *)
| SlowCas (n : Z) (v : word)                 (* it read v, which is lent and has plenty *)
| Release (n : Z)                            (* it has n bytes, which it is about to give back *)
| ReleaseTo (n : Z) (i : nat)                (* to share i, if that is not recalled *)
| ReleaseCas (n : Z) (i : nat) (a : Z)       (* it read a there *)
| Want (c : call)                            (* about to lock *)
| Wake (batch : list nat) (more : bool).     (* about to wake the batch; then, if [more], to serve again *)

(** Where the holder of the lock stands. [v] is what it read last; [b] the wakers that it has moved out. *)
Inductive after := ACharge (n : Z) | AUsed | AJoin (w : nat) | AResize (limit : Z) | AClose.
Inductive crit :=
| AtK1 (r : after)                           (* recall, and then r *)
| AtK2 (r : after) (j : nat) (sum : Z)       (* about to empty share j; [sum] was in those before *)
| AtA9 (n : Z) (i : nat) | AtA10 (i : nat) (b : Z)
| AtA15 (n : Z) | AtA17 (n : Z)
| AtR8 (n : Z) (i : nat) | AtR9 (n : Z) (i : nat) | AtR10 (n : Z) (x : Z)
| AtG2 | AtG4 (j : nat)
| AtJ2 (w : nat) | AtJ3 (w : nat) | AtJ4 (w : nat) | AtJ5 (w : nat)
| AtL2 (w : nat) (h : how) | AtL3 (w : nat)
| AtS2 (b : list nat)                        (* about to read the word *)
| AtS3 (v : word) (b : list nat)             (* about to judge the head *)
| AtS4 (w : nat) (e : outcome) (v : word) (b : list nat)
| AtS5 (w : nat) (e : outcome) (v : word) (b : list nat)
| AtS6 (v : word) (b : list nat) (more : bool)
| AtS6d (v : word) (b : list nat)            (* the budget is closed, and nothing is charged *)
| AtS7 (v : word) (b : list nat) (more : bool)
| AtS8 (b : list nat) (more : bool)
| AtZ2 (limit : Z)
| AtX2 | AtX3
| AtD2 (w : nat) | AtD3 (w : nat) | AtD4
| AtE2 (w : nat) | AtE3
| Exit (p : pc).                             (* about to unlock, and to go on at [p] *)

(** A waiter, as its owner (the future) knows it. [Passed]: it completed without having joined. *)
Inductive phase := Fresh | Passed | Trying (t : nat) | Waiting | Leaving (t : nat) | Draining | DLeaving (t : nat) | Done.

Record state := State {
  wd : word;
  share : nat -> Z;                          (* one atomic for each share: its room, *)
  recalled : nat -> bool;                    (* and whether it has been called in *)
  lock : option (nat * crit);
  queue : list nat;                          (* under the lock, as the next four *)
  drains : list nat;
  limit : Z;
  shut : bool;
  ending : nat -> option outcome;            (* one atomic for each waiter *)
  pcs : nat -> pc;
  phases : nat -> phase;
  (* What only the theorems see. *)
  held : Z;                                  (* bytes of all permits that exist *)
  woken : nat -> Z;                          (* how often each waiter's waker was called *)
  order : list nat;                          (* all that ever joined, in the order of joining *)
  gone : nat -> bool;                        (* unlinked *)
  grants : list nat                          (* all that were granted from the queue, in that order *)
}.

Definition set_wd s v := State v (share s) (recalled s) (lock s) (queue s) (drains s) (limit s) (shut s) (ending s) (pcs s) (phases s) (held s) (woken s) (order s) (gone s) (grants s).
Definition set_share s i a r := State (wd s) (upd (share s) i a) (upd (recalled s) i r) (lock s) (queue s) (drains s) (limit s) (shut s) (ending s) (pcs s) (phases s) (held s) (woken s) (order s) (gone s) (grants s).
Definition set_lock s v := State (wd s) (share s) (recalled s) v (queue s) (drains s) (limit s) (shut s) (ending s) (pcs s) (phases s) (held s) (woken s) (order s) (gone s) (grants s).
Definition set_queue s v := State (wd s) (share s) (recalled s) (lock s) v (drains s) (limit s) (shut s) (ending s) (pcs s) (phases s) (held s) (woken s) (order s) (gone s) (grants s).
Definition set_drains s v := State (wd s) (share s) (recalled s) (lock s) (queue s) v (limit s) (shut s) (ending s) (pcs s) (phases s) (held s) (woken s) (order s) (gone s) (grants s).
Definition set_limit s v := State (wd s) (share s) (recalled s) (lock s) (queue s) (drains s) v (shut s) (ending s) (pcs s) (phases s) (held s) (woken s) (order s) (gone s) (grants s).
Definition set_shut s v := State (wd s) (share s) (recalled s) (lock s) (queue s) (drains s) (limit s) v (ending s) (pcs s) (phases s) (held s) (woken s) (order s) (gone s) (grants s).
Definition set_ending s w v := State (wd s) (share s) (recalled s) (lock s) (queue s) (drains s) (limit s) (shut s) (upd (ending s) w v) (pcs s) (phases s) (held s) (woken s) (order s) (gone s) (grants s).
Definition set_pc s t v := State (wd s) (share s) (recalled s) (lock s) (queue s) (drains s) (limit s) (shut s) (ending s) (upd (pcs s) t v) (phases s) (held s) (woken s) (order s) (gone s) (grants s).
Definition set_phase s w v := State (wd s) (share s) (recalled s) (lock s) (queue s) (drains s) (limit s) (shut s) (ending s) (pcs s) (upd (phases s) w v) (held s) (woken s) (order s) (gone s) (grants s).
Definition set_held s v := State (wd s) (share s) (recalled s) (lock s) (queue s) (drains s) (limit s) (shut s) (ending s) (pcs s) (phases s) v (woken s) (order s) (gone s) (grants s).
Definition set_woken s w := State (wd s) (share s) (recalled s) (lock s) (queue s) (drains s) (limit s) (shut s) (ending s) (pcs s) (phases s) (held s) (upd (woken s) w (woken s w + 1)) (order s) (gone s) (grants s).
Definition set_order s v := State (wd s) (share s) (recalled s) (lock s) (queue s) (drains s) (limit s) (shut s) (ending s) (pcs s) (phases s) (held s) (woken s) v (gone s) (grants s).
Definition set_gone s w := State (wd s) (share s) (recalled s) (lock s) (queue s) (drains s) (limit s) (shut s) (ending s) (pcs s) (phases s) (held s) (woken s) (order s) (upd (gone s) w true) (grants s).
Definition set_grants s v := State (wd s) (share s) (recalled s) (lock s) (queue s) (drains s) (limit s) (shut s) (ending s) (pcs s) (phases s) (held s) (woken s) (order s) (gone s) v.

Definition add_room v n := Word (room v + n) (queued v) (closed v) (lent v).
Definition set_queued v q := Word (room v) q (closed v) (lent v).
Definition set_closed v := Word (room v) (queued v) true (lent v).
Definition set_lent v l := Word (room v) (queued v) (closed v) l.

(** The holder of the lock goes on at [c]. *)
Definition goto s t c := set_lock s (Some (t, c)).

(** Whether one that is not in the queue may charge n, by a value of the word. *)
Definition admits n v := lent v = false /\ queued v = false /\ closed v = false /\ n <= room v.

(** Why one that is not admitted is refused, the limit aside. *)
Definition why v := if closed v then RefusedClosed else Full.

(** Whether [QUEUED] has a reason to be set. *)
Definition is_watched (q d : list nat) (shut : bool) : bool :=
  match q, d with [], [] => false | [], _ => shut | _, _ => true end.
Definition watched s := is_watched (queue s) (drains s) (shut s).

(** What follows a recall. *)
Definition go_on r :=
  match r with ACharge n => AtA17 n | AUsed => Exit Idle | AJoin w => AtJ2 w | AResize l => AtZ2 l | AClose => AtX2 end.

Definition start c :=
  match c with
  | Serve => AtS2 []
  | Charge n => AtA15 n
  | Used => AtK1 AUsed
  | Join w => AtK1 (AJoin w)
  | Leave w h => AtL2 w h
  | Resize l => AtK1 (AResize l)
  | Close => AtK1 AClose
  | JoinDrains w => AtD2 w
  | LeaveDrains w => AtE2 w
  end.

(** * The steps *)

(** Those of docs/proof.md. [Call]: what user code does between two calls. [Poll]: a future's owner looks at its
    ending. The others carry a prime or a letter where one label has several outcomes. *)
Inductive label :=
| Call | Poll
| A1 | A1lent | A3 (r : refusal) | A3again | A4 (n : Z) | A4fail | A6 | A6no | A7 (n : Z) | A7fail | A8 | A8fail
| A9 (n : Z) | A9no | A10 | A12 | A12no | A13 (n : Z) | A13fail | A15 (r : refusal) | A15pass | A17 (n : Z) | A17no (r : refusal)
| A18 (r : refusal) | A18lent | A18locked | A18again
| R1 | R3 | R3no | R4 (n : Z) | R4fail | R5 (n : Z) | R7 | R8no | R8 | R9 | R10 (n : Z)
| K1no | K1 | K2 | K3
| G1 | G3no | G3 | G4 | G4done
| Lock
| J2 (r : refusal) | J2c (w : nat) | J2pass | J3 | J4 (w : nat) | J4wait | J5 (w : nat)
| S2 | S3 (w : nat) | S3end (w : nat) (e : outcome) | S3wait | S3more | S4 | S5 (w : nat) (e : outcome)
| S6 | S6no | S6drain (w : nat) | S6more | S6done | S7 | S8 | S9 (w : nat) | S9done
| L2 (w : nat) (e : outcome) | L2pass | L3 (w : nat)
| Z2 | X2 | X3 | D2 | D3 | D4 | E2 | E3
| Unlock.

Section Budget.
(** How many threads and waiters there are, and what each waiter asks for. *)
Variables (T W : nat) (need : nat -> Z).
(** How many shares there are, and how much of the limit's upper end is never lent. *)
Variables (N : nat) (overflow : Z).

Inductive step (s : state) (t : nat) : label -> state -> Prop :=
(* What user code may begin. *)
| call_charge n :
    pcs s t = Idle -> 0 <= n ->
    step s t Call (set_pc s t (Load n))
| call_release n :
    pcs s t = Idle -> 0 <= n <= held s ->
    step s t Call (set_pc (set_held s (held s - n)) t (Release n))
| call_join w :
    pcs s t = Idle -> (w < W)%nat -> phases s w = Fresh ->
    step s t Call (set_pc (set_phase s w (Trying t)) t (Want (Join w)))
| call_leave w h :
    pcs s t = Idle -> (w < W)%nat -> phases s w = Waiting ->
    step s t Call (set_pc (set_phase s w (Leaving t)) t (Want (Leave w h)))
| call_resize l :
    pcs s t = Idle -> 0 <= l ->
    step s t Call (set_pc s t (Want (Resize l)))
| call_used :
    pcs s t = Idle ->
    step s t Call (set_pc s t (Want Used))
| call_close :
    pcs s t = Idle ->
    step s t Call (set_pc s t (Want Close))
| call_join_drains w :
    pcs s t = Idle -> (w < W)%nat -> phases s w = Fresh ->
    step s t Call (set_pc (set_phase s w (Trying t)) t (Want (JoinDrains w)))
| call_leave_drains w :
    pcs s t = Idle -> (w < W)%nat -> phases s w = Draining ->
    step s t Call (set_pc (set_phase s w (DLeaving t)) t (Want (LeaveDrains w)))
| poll w e :
    pcs s t = Idle -> (w < W)%nat -> phases s w = Waiting \/ phases s w = Draining ->
    ending s w = Some e ->
    step s t Poll (set_held (set_phase s w Done) (held s + match e with Granted => need w | _ => 0 end))
(* acquire(n) without waiting *)
| a1 n :
    pcs s t = Load n -> admits n (wd s) ->
    step s t A1 (set_pc s t (Cas n (wd s)))
| a1_lent n i :
    pcs s t = Load n -> lent (wd s) = true -> (i < N)%nat ->
    step s t A1lent (set_pc s t (Share n i))
| a1_slow n :        (* A5: any size may be too large for a share. *)
    pcs s t = Load n -> lent (wd s) = true ->
    step s t A1lent (set_pc s t (Slow n))
| a3 n :             (* It fits: so somebody waits. *)
    pcs s t = Load n -> ~ admits n (wd s) -> lent (wd s) = false -> closed (wd s) = false -> n <= room (wd s) ->
    step s t (A3 Full) (set_pc s t Idle)
| a3_again n :
    pcs s t = Load n -> ~ admits n (wd s) ->
    step s t A3again (set_pc s t (Reread n))
| a4 n v :
    pcs s t = Cas n v -> wd s = v ->
    step s t (A4 n) (set_pc (set_held (set_wd s (add_room v (- n))) (held s + n)) t Idle)
| a4_fail n v :
    pcs s t = Cas n v ->
    step s t A4fail (set_pc s t (Load n))
| a6 n i :
    pcs s t = Share n i -> recalled s i = false -> n <= share s i ->
    step s t A6 (set_pc s t (ShareCas n i (share s i)))
| a6_no n i :
    pcs s t = Share n i -> recalled s i = true \/ share s i < n ->
    step s t A6no (set_pc s t (Try n i))
| a7 n i a :
    pcs s t = ShareCas n i a -> share s i = a -> recalled s i = false ->
    step s t (A7 n) (set_pc (set_held (set_share s i (a - n) false) (held s + n)) t Idle)
| a7_fail n i a :
    pcs s t = ShareCas n i a ->
    step s t A7fail (set_pc s t (Share n i))
| a8 n i :
    pcs s t = Try n i -> lock s = None ->
    step s t A8 (set_pc (goto s t (AtA9 n i)) t Locked)
| a8_fail n i :
    pcs s t = Try n i ->
    step s t A8fail (set_pc s t (Slow n))
| a9 n i b :         (* Any batch. *)
    lock s = Some (t, AtA9 n i) -> lent (wd s) = true -> 0 <= b -> n + b + overflow <= room (wd s) ->
    step s t (A9 n) (goto (set_held (set_wd s (add_room (wd s) (- (n + b)))) (held s + n)) t (AtA10 i b))
| a9_no n i :
    lock s = Some (t, AtA9 n i) ->
    step s t A9no (goto s t (Exit (Slow n)))
| a10 i b :
    lock s = Some (t, AtA10 i b) ->
    step s t A10 (goto (set_share s i (share s i + b) (recalled s i)) t (Exit Idle))
| a12 n :
    pcs s t = Slow n -> lent (wd s) = true -> n + overflow <= room (wd s) ->
    step s t A12 (set_pc s t (SlowCas n (wd s)))
| a12_no n :
    pcs s t = Slow n -> lent (wd s) = false \/ room (wd s) < n + overflow ->
    step s t A12no (set_pc s t (Want (Charge n)))
| a13 n v :
    pcs s t = SlowCas n v -> wd s = v ->
    step s t (A13 n) (set_pc (set_held (set_wd s (add_room v (- n))) (held s + n)) t Idle)
| a13_fail n v :
    pcs s t = SlowCas n v ->
    step s t A13fail (set_pc s t (Slow n))
| a15 n :
    lock s = Some (t, AtA15 n) -> shut s = false -> limit s < n ->
    step s t (A15 RefusedTooLarge) (goto s t (Exit Idle))
| a15_pass n :
    lock s = Some (t, AtA15 n) -> shut s = true \/ n <= limit s ->
    step s t A15pass (goto s t (AtK1 (ACharge n)))
| a17 n :
    lock s = Some (t, AtA17 n) -> admits n (wd s) ->
    step s t (A17 n) (goto (set_held (set_wd s (add_room (wd s) (- n))) (held s + n)) t (Exit Idle))
| a17_no n :
    lock s = Some (t, AtA17 n) -> ~ admits n (wd s) ->
    step s t (A17no (why (wd s))) (goto s t (Exit Idle))
(* The second look, at the state and the limit of one moment. *)
| a18_closed n :
    pcs s t = Reread n -> closed (wd s) = true ->
    step s t (A18 RefusedClosed) (set_pc s t Idle)
| a18_lent n i :
    pcs s t = Reread n -> closed (wd s) = false -> lent (wd s) = true -> (i < N)%nat ->
    step s t A18lent (set_pc s t (Share n i))
| a18_slow n :
    pcs s t = Reread n -> closed (wd s) = false -> lent (wd s) = true ->
    step s t A18lent (set_pc s t (Slow n))
| a18_locked n :     (* The limit is being moved. *)
    pcs s t = Reread n ->
    step s t A18locked (set_pc s t (Want (Charge n)))
| a18_too_large n :
    pcs s t = Reread n -> closed (wd s) = false -> lent (wd s) = false -> limit s < n ->
    step s t (A18 RefusedTooLarge) (set_pc s t Idle)
| a18_full n :
    pcs s t = Reread n -> closed (wd s) = false -> lent (wd s) = false -> n <= limit s -> ~ admits n (wd s) ->
    step s t (A18 Full) (set_pc s t Idle)
| a18_again n :
    pcs s t = Reread n -> n <= limit s -> admits n (wd s) ->
    step s t A18again (set_pc s t (Load n))
(* recall, with the lock held *)
| k1_no r :
    lock s = Some (t, AtK1 r) -> lent (wd s) = false ->
    step s t K1no (goto s t (go_on r))
| k1 r :
    lock s = Some (t, AtK1 r) -> lent (wd s) = true ->
    step s t K1 (goto s t (AtK2 r 0 0))
| k2 r j z :
    lock s = Some (t, AtK2 r j z) -> (j < N)%nat ->
    step s t K2 (goto (set_share s j 0 true) t (AtK2 r (S j) (z + share s j)))
| k3 r z :
    lock s = Some (t, AtK2 r N z) ->
    step s t K3 (goto (set_wd s (set_lent (add_room (wd s) z) false)) t (go_on r))
(* lend *)
| g1 :
    pcs s t = Idle -> lock s = None ->
    step s t G1 (set_pc (goto s t AtG2) t Locked)
| g2_no :
    lock s = Some (t, AtG2) ->
    step s t G3no (goto s t (Exit Idle))
| g3 :
    lock s = Some (t, AtG2) -> lent (wd s) = false -> queued (wd s) = false -> closed (wd s) = false -> overflow <= room (wd s) ->
    step s t G3 (goto (set_wd s (set_lent (wd s) true)) t (AtG4 0))
| g4 j :
    lock s = Some (t, AtG4 j) -> (j < N)%nat ->
    step s t G4 (goto (set_share s j (share s j) false) t (AtG4 (S j)))
| g4_done :
    lock s = Some (t, AtG4 N) ->
    step s t G4done (goto s t (Exit Idle))
(* release(n) *)
| r1 n i :
    pcs s t = Release n -> (i < N)%nat ->
    step s t R1 (set_pc s t (ReleaseTo n i))
| r3 n i :
    pcs s t = ReleaseTo n i -> recalled s i = false ->
    step s t R3 (set_pc s t (ReleaseCas n i (share s i)))
| r3_no n i :
    pcs s t = ReleaseTo n i ->
    step s t R3no (set_pc s t (Release n))
| r4 n i a :
    pcs s t = ReleaseCas n i a -> share s i = a -> recalled s i = false ->
    step s t (R4 n) (set_pc (set_share s i (a + n) false) t Idle)
| r4_fail n i a :
    pcs s t = ReleaseCas n i a ->
    step s t R4fail (set_pc s t (ReleaseTo n i))
| r5 n :
    pcs s t = Release n ->
    step s t (R5 n) (set_pc (set_wd s (add_room (wd s) n)) t (if queued (wd s) then Want Serve else Idle))
| r7 n i :
    pcs s t = ReleaseTo n i -> lock s = None ->
    step s t R7 (set_pc (goto s t (AtR8 n i)) t Locked)
| r8_no n i :
    lock s = Some (t, AtR8 n i) ->
    step s t R8no (goto s t (Exit (Release n)))
| r8 n i :
    lock s = Some (t, AtR8 n i) -> lent (wd s) = true ->
    step s t R8 (goto s t (AtR9 n i))
| r9 n i x :         (* Any excess. *)
    lock s = Some (t, AtR9 n i) -> 0 <= x <= share s i ->
    step s t R9 (goto (set_share s i (share s i - x) (recalled s i)) t (AtR10 n x))
| r10 n x :
    lock s = Some (t, AtR10 n x) ->
    step s t (R10 n) (goto (set_wd s (add_room (wd s) (x + n))) t (Exit Idle))
(* The lock. *)
| take_lock c :
    pcs s t = Want c -> lock s = None ->
    step s t Lock (set_pc (goto s t (start c)) t Locked)
| unlock p :
    lock s = Some (t, Exit p) ->
    step s t Unlock (set_pc (set_lock s None) t p)
(* join(w) *)
| j2_closed w :
    lock s = Some (t, AtJ2 w) -> shut s = true ->
    step s t (J2 RefusedClosed) (goto (set_phase s w Passed) t (Exit Idle))
| j2_too_large w :
    lock s = Some (t, AtJ2 w) -> shut s = false -> limit s < need w ->
    step s t (J2 RefusedTooLarge) (goto (set_phase s w Passed) t (Exit Idle))
| j2_pass w :
    lock s = Some (t, AtJ2 w) -> shut s = false -> need w <= limit s ->
    step s t J2pass (goto s t (AtJ3 w))
| j2_full w :         (* The bound on the queue, whatever it is. *)
    lock s = Some (t, AtJ3 w) -> ~ admits (need w) (wd s) ->
    step s t (J2 QueueFull) (goto (set_phase s w Passed) t (Exit Idle))
| j2_at_once w :      (* The same, but the bytes have come meanwhile. *)
    lock s = Some (t, AtJ3 w) -> admits (need w) (wd s) ->
    step s t (J2c w)
      (goto (set_phase (set_held (set_wd s (add_room (wd s) (- need w))) (held s + need w)) w Passed) t (Exit Idle))
| j3_empty w :
    lock s = Some (t, AtJ3 w) -> queue s = [] ->
    step s t J3 (goto s t (AtJ4 w))
| j3_behind w :
    lock s = Some (t, AtJ3 w) -> queue s <> [] ->
    step s t J3 (goto s t (AtJ5 w))
| j4 w :              (* One operation: takes the bytes, or sets the flag. *)
    lock s = Some (t, AtJ4 w) -> need w <= room (wd s) ->
    step s t (J4 w)
      (goto (set_phase (set_held (set_wd s (add_room (wd s) (- need w))) (held s + need w)) w Passed) t (Exit Idle))
| j4_wait w :
    lock s = Some (t, AtJ4 w) -> room (wd s) < need w ->
    step s t J4wait (goto (set_wd s (set_queued (wd s) true)) t (AtJ5 w))
| j5 w :
    lock s = Some (t, AtJ5 w) ->
    step s t (J5 w)
      (goto (set_phase (set_order (set_queue s (queue s ++ [w])) (order s ++ [w])) w Waiting) t (Exit Idle))
(* serve() *)
| s2 b :
    lock s = Some (t, AtS2 b) ->
    step s t S2 (goto s t (AtS3 (wd s) b))
| s3_closed w q v b :
    lock s = Some (t, AtS3 v b) -> queue s = w :: q -> shut s = true ->
    step s t (S3end w Closed) (goto s t (AtS4 w Closed v b))
| s3_too_large w x q v b :
    lock s = Some (t, AtS3 v b) -> queue s = w :: x :: q -> shut s = false -> limit s < need w ->
    step s t (S3end w TooLarge) (goto s t (AtS4 w TooLarge v b))
| s3_too_large_last w v b :
    lock s = Some (t, AtS3 v b) -> queue s = [w] -> shut s = false -> limit s < need w ->
    step s t (S3end w TooLarge)
      (goto (set_wd s (set_queued (wd s) false)) t (AtS4 w TooLarge (set_queued (wd s) false) b))
| s3_grant w q v b v' :
    lock s = Some (t, AtS3 v b) -> queue s = w :: q -> shut s = false -> need w <= limit s ->
    need w <= room v ->
    v' = set_queued (add_room (wd s) (- need w)) (match q with [] => false | _ => queued (wd s) end) ->
    step s t (S3 w) (goto (set_wd s v') t (AtS4 w Granted v' b))
| s3_wait w q v b :
    lock s = Some (t, AtS3 v b) -> queue s = w :: q -> shut s = false -> need w <= limit s ->
    room v < need w ->
    step s t S3wait (goto s t (AtS6 v b false))
| s3_empty v b :
    lock s = Some (t, AtS3 v b) -> queue s = [] ->
    step s t S3wait (goto s t (AtS6 v b false))
| s3_more v b :       (* The batch is full, whatever its size. *)
    lock s = Some (t, AtS3 v b) -> queue s <> [] ->
    step s t S3more (goto s t (AtS7 v b true))
| s4 w e v b :
    lock s = Some (t, AtS4 w e v b) ->
    step s t S4
      (goto (set_grants (set_gone (set_queue s (tl (queue s))) w)
                        (match e with Granted => grants s ++ [w] | _ => grants s end))
            t (AtS5 w e v (b ++ [w])))
| s5 w e v b :
    lock s = Some (t, AtS5 w e v b) ->
    step s t (S5 w e) (goto (set_ending s w (Some e)) t (AtS3 v b))
| s6 v b :            (* Reads the word anew. *)
    lock s = Some (t, AtS6 v b false) -> shut s = true -> room (wd s) = limit s ->
    step s t S6 (goto s t (AtS6d v b))
| s6_no v b :
    lock s = Some (t, AtS6 v b false) -> shut s = false \/ room (wd s) <> limit s ->
    step s t S6no (goto s t (AtS7 v b false))
| s6_drain w d v b :
    lock s = Some (t, AtS6d v b) -> drains s = w :: d ->
    step s t (S6drain w)
      (goto (set_ending (set_drains s d) w (Some Drained)) t (AtS6d v (b ++ [w])))
| s6_more v b :
    lock s = Some (t, AtS6d v b) -> drains s <> [] ->
    step s t S6more (goto s t (AtS7 v b true))
| s6_done v b :
    lock s = Some (t, AtS6d v b) -> drains s = [] ->
    step s t S6done (goto s t (AtS7 v b false))
| s7 v b m :
    lock s = Some (t, AtS7 v b m) ->
    step s t S7
      (goto (set_wd s (set_queued (wd s) (if queued v && negb (watched s) then false else queued (wd s))))
            t (AtS8 b m))
| s8 b m :
    lock s = Some (t, AtS8 b m) ->
    step s t S8 (set_pc (set_lock s None) t (Wake b m))
| s9 w b m :
    pcs s t = Wake (w :: b) m ->
    step s t (S9 w) (set_pc (set_woken s w) t (Wake b m))
| s9_done m :
    pcs s t = Wake [] m ->
    step s t S9done (set_pc s t (if m then Want Serve else Idle))
(* leave(w) *)
| l2 w h e :
    lock s = Some (t, AtL2 w h) -> ending s w = Some e ->
    step s t (L2 w e)
      (goto (set_held (set_phase s w Done) (held s + match e, h with Granted, Until => need w | _, _ => 0 end))
            t (Exit (match e, h with Granted, Drop => Release (need w) | _, _ => Idle end)))
| l2_pass w h :
    lock s = Some (t, AtL2 w h) -> ending s w = None ->
    step s t L2pass (goto s t (AtL3 w))
| l3 w :
    lock s = Some (t, AtL3 w) ->
    step s t (L3 w)
      (goto (set_phase (set_ending (set_gone (set_queue s (del w (queue s))) w) w (Some Left)) w Done) t
            (match queue s with
             | x :: _ => if Nat.eqb x w then AtS2 [] else Exit Idle
             | [] => Exit Idle
             end))
(* set_limit(l) *)
| z2 l :
    lock s = Some (t, AtZ2 l) ->
    step s t Z2 (goto (set_limit (set_wd s (add_room (wd s) (l - limit s))) l) t (AtS2 []))
(* close() *)
| x2 :
    lock s = Some (t, AtX2) ->
    step s t X2
      (goto (set_shut (set_wd s (set_closed (wd s))) true) t
            (match drains s with [] => AtS2 [] | _ => AtX3 end))
| x3 :
    lock s = Some (t, AtX3) ->
    step s t X3 (goto (set_wd s (set_queued (wd s) true)) t (AtS2 []))
(* drained() *)
| d2_open w :
    lock s = Some (t, AtD2 w) -> shut s = false ->
    step s t D2 (goto (set_phase (set_drains s (drains s ++ [w])) w Draining) t (Exit Idle))
| d2 w :
    lock s = Some (t, AtD2 w) -> shut s = true ->
    step s t D2 (goto (set_wd s (set_queued (wd s) true)) t (AtD3 w))
| d3_empty w :
    lock s = Some (t, AtD3 w) -> room (wd s) = limit s ->
    step s t D3 (goto (set_phase s w Passed) t AtD4)
| d4 :
    lock s = Some (t, AtD4) ->
    step s t D4 (goto (set_wd s (set_queued (wd s) (queued (wd s) && watched s))) t (Exit Idle))
| d3_wait w :
    lock s = Some (t, AtD3 w) -> room (wd s) <> limit s ->
    step s t D3 (goto (set_phase (set_drains s (drains s ++ [w])) w Draining) t (Exit Idle))
(* Its future is dropped. *)
| e2_ended w e :
    lock s = Some (t, AtE2 w) -> ending s w = Some e ->
    step s t E2 (goto (set_phase s w Done) t AtE3)
| e2 w :
    lock s = Some (t, AtE2 w) -> ending s w = None ->
    step s t E2
      (goto (set_phase (set_ending (set_drains s (del w (drains s))) w (Some Left)) w Done) t AtE3)
| e3 :
    lock s = Some (t, AtE3) ->
    step s t E3
      (goto (set_wd s (set_queued (wd s) (if shut s && negb (watched s) then false else queued (wd s))))
            t (Exit Idle)).

(** A new budget. *)
Definition init (l : Z) : state :=
  State (Word l false false false) (fun _ => 0) (fun _ => true) None [] [] l false (fun _ => None) (fun _ => Idle) (fun _ => Fresh)
        0 (fun _ => 0) [] (fun _ => false) [].

Inductive reach : state -> Prop :=
| reach_init l : 0 <= l -> reach (init l)
| reach_step s t l s' : reach s -> (t < T)%nat -> step s t l s' -> reach s'.

End Budget.
