(** The invariant of the budget's protocol with lending: what holds in every reachable state. Each clause is a definition of
    its own, and has a lemma that every step keeps it. *)
Require Import Base Budget.

Arguments upd : simpl never.
Arguments sum : simpl never.
Arguments del : simpl never.
Arguments still : simpl never.
Arguments Z.add : simpl never.
Arguments Z.sub : simpl never.
Arguments Z.opp : simpl never.
Arguments Nat.ltb : simpl never.

Section Inv.
Variables (T W : nat) (need : nat -> Z) (Sh : nat) (overflow : Z).

(** * What a thread has, by where it stands *)

Definition bytes_pc p := match p with Release n | ReleaseTo n _ | ReleaseCas n _ _ => n | _ => 0 end.
Definition bytes_crit c :=
  match c with
  | AtS4 w Granted _ _ | AtS5 w Granted _ _ => need w
  | AtR8 n _ | AtR9 n _ | AtR10 n _ => n
  | Exit p => bytes_pc p
  | _ => 0
  end.
(** Room that the holder of the lock moves between the shares and the word. *)
Definition moving_crit c := match c with AtK2 _ _ z => z | AtA10 _ b => b | AtR10 _ x => x | _ => 0 end.
Definition moving (l : option (nat * crit)) := match l with Some (_, c) => moving_crit c | None => 0 end.
Definition bytes_lock (l : option (nat * crit)) := match l with Some (_, c) => bytes_crit c | None => 0 end.

Definition batch_pc p := match p with Wake b _ => b | _ => [] end.
Definition batch_crit c :=
  match c with
  | AtS2 b | AtS3 _ b | AtS4 _ _ _ b | AtS5 _ _ _ b | AtS6 _ b _ | AtS6d _ b | AtS7 _ b _ | AtS8 b _ => b
  | Exit p => batch_pc p
  | _ => []
  end.
Definition batch_lock (l : option (nat * crit)) := match l with Some (_, c) => batch_crit c | None => [] end.

(** On its way to serve: before the lock, or between two batches. *)
Definition on_way p := match p with Want Serve | Wake _ true => true | _ => false end.
Definition coming (m : nat -> pc) := exists t, on_way (m t) = true.
Definition to_serve s := coming (pcs s).

Definition alive s w := match phases s w with Waiting | Leaving _ => True | _ => False end.
Definition outside s w := match phases s w with Fresh | Passed | Trying _ => True | _ => False end.
Definition draining s w := match phases s w with Draining | DLeaving _ => True | _ => False end.

(** Bytes that were granted to a waiter whose owner has not noticed yet. *)
Definition owed s w :=
  match ending s w, phases s w with
  | Some Granted, Waiting | Some Granted, Leaving _ => need w
  | _, _ => 0
  end.

(** All that is charged. *)
Definition charged s :=
  held s + sum (fun t => bytes_pc (pcs s t)) T + bytes_lock (lock s) + sum (owed s) W.

(** * The clauses *)

(** The lock's holder is where it says, and nowhere else. *)
Definition Lk s := match lock s with Some (t, _) => pcs s t = Locked /\ (t < T)%nat | None => True end.

(** A thread in a call has what the call needs; a waiter has one owner. *)
Definition Own s := forall t,
  match pcs s t with
  | Load n | Reread n | Release n | Slow n | Want (Charge n) => 0 <= n
  | Share n i | Try n i | ReleaseTo n i | ReleaseCas n i _ => 0 <= n /\ (i < Sh)%nat
  | ShareCas n i a => 0 <= n <= a /\ (i < Sh)%nat
  | Cas n v => 0 <= n /\ admits n v
  | SlowCas n v => 0 <= n /\ lent v = true /\ n + overflow <= room v
  | Want (Join w) | Want (JoinDrains w) => (w < W)%nat /\ phases s w = Trying t
  | Want (Leave w _) => (w < W)%nat /\ phases s w = Leaving t
  | Want (LeaveDrains w) => (w < W)%nat /\ phases s w = DLeaving t
  | _ => True
  end.

Definition OwnLock s :=
  match lock s with
  | Some (t, c) =>
      match c with
      | AtJ2 w | AtJ3 w | AtJ4 w | AtJ5 w | AtD2 w | AtD3 w | AtK1 (AJoin w) | AtK2 (AJoin w) _ _ =>
          (w < W)%nat /\ phases s w = Trying t
      | AtA15 n | AtA17 n | AtK1 (ACharge n) | AtK2 (ACharge n) _ _ => 0 <= n
      | AtA9 n i | AtR8 n i | AtR9 n i => 0 <= n /\ (i < Sh)%nat
      | AtA10 i b => 0 <= b /\ (i < Sh)%nat
      | AtR10 n x => 0 <= n /\ 0 <= x
      | AtL2 w _ => (w < W)%nat /\ phases s w = Leaving t
      | AtL3 w => (w < W)%nat /\ phases s w = Leaving t /\ ending s w = None
      | AtE2 w => (w < W)%nat /\ phases s w = DLeaving t
      | Exit p => match p with Idle => True | Release n | Slow n => 0 <= n | _ => False end
      | _ => True
      end
  | None => True
  end.

(** The queue is what has joined and is not gone, in the order of joining. *)
Definition Queue s :=
  NoDup (order s) /\ queue s = still (gone s) (order s) /\
  (forall w, gone s w = true -> In w (order s)) /\
  (forall w, alive s w -> In w (order s)).

(** A waiter's ending is stored once it is unlinked, and not before. *)
Definition pending (l : option (nat * crit)) w :=
  match l with Some (_, AtS5 w' _ _ _) => w = w' | _ => False end.
Definition Ending s :=
  (forall w, In w (order s) -> (w < W)%nat /\ ending s w <> Some Drained) /\
  (forall w, In w (order s) -> gone s w = false -> ending s w = None /\ alive s w) /\
  (forall w, In w (order s) -> gone s w = true -> ending s w = None -> pending (lock s) w) /\
  (forall w, outside s w -> ending s w = None) /\
  (forall w, draining s w -> ending s w = None \/ ending s w = Some Drained) /\
  match lock s with
  | Some (_, AtS4 w e _ _) => (exists q, queue s = w :: q) /\ e <> Left /\ e <> Drained
  | Some (_, AtS5 w e _ _) =>
      In w (order s) /\ gone s w = true /\ ending s w = None /\ alive s w /\ e <> Left /\ e <> Drained
  | _ => True
  end.

(** Those that wait for the budget to be empty. *)
Definition Drains s :=
  NoDup (drains s) /\
  forall w, In w (drains s) <->
    (w < W)%nat /\ ending s w = None /\ draining s w.

(** [QUEUED] is set while there is a reason to, but for what the holder of the lock is about to put right. *)
Definition Flag s :=
  closed (wd s) = shut s /\
  let q := queued (wd s) in
  match lock s with
  | None => q = watched s
  | Some (_, c) =>
      match c with
      | AtJ4 _ => q = false /\ queue s = [] /\ shut s = false
      | AtJ5 _ => q = true /\ shut s = false
      | AtS2 _ => watched s = true -> q = true
      | AtE3 => (watched s = true -> q = true) /\ (shut s = false -> q = watched s)
      | AtS3 v _ | AtS5 _ _ v _ | AtS6 v _ _ | AtS6d v _ | AtS7 v _ _ =>
          (watched s = true -> q = true) /\ queued v = q
      | AtS4 _ e v _ =>
          (is_watched (tl (queue s)) (drains s) (shut s) = true -> q = true) /\ queued v = q /\
          (e = Closed -> q = true)
      | AtX3 => shut s = true /\ (queue s <> [] -> q = true)
      | AtD3 _ | AtD4 => q = true /\ shut s = true
      | _ => q = watched s
      end
  end.

(** What the holder of the lock has read is what is there, or a releaser is on its way. *)
Definition snapshot c :=
  match c with
  | AtS3 v _ | AtS4 _ _ v _ | AtS5 _ _ v _ => Some v
  | _ => None
  end.
Definition Snap s :=
  match lock s with
  | Some (_, c) =>
      match snapshot c with
      | Some v => queued (wd s) = true -> room v <= room (wd s) /\ (room v < room (wd s) -> to_serve s)
      | None => True
      end
  | None => True
  end.

(** The head does not fit, nor could it be ended otherwise. *)
Definition head_waits s :=
  match queue s with
  | [] => True
  | w :: _ => shut s = false /\ need w <= limit s /\ room (wd s) < need w
  end.
Definition drains_wait s := shut s = true -> drains s <> [] -> room (wd s) <> limit s.

(** No lost wake-up, as it is kept: whenever the holder of the lock is not itself about to serve. *)
Definition settled (l : option (nat * crit)) :=
  match l with
  | Some (_, c) =>
      match c with
      | AtS2 _ | AtS3 _ _ | AtS4 _ _ _ _ | AtS5 _ _ _ _ | AtX3 | AtS7 _ _ true | AtS8 _ true => false
      | _ => true
      end
  | None => true
  end.
Definition drained (l : option (nat * crit)) :=
  settled l && match l with Some (_, AtS6 _ _ _) | Some (_, AtS6d _ _) => false | _ => true end.
Definition WakeHead s := settled (lock s) = true -> head_waits s \/ to_serve s.
Definition WakeDrains s := drained (lock s) = true -> drains_wait s \/ to_serve s.

(** What the holder of the lock has found out. *)
Definition Found s :=
  match lock s with
  | Some (_, AtJ3 w) | Some (_, AtJ4 w) =>
      shut s = false /\ need w <= limit s
  | Some (_, AtJ5 w) =>
      shut s = false /\ need w <= limit s /\ (queue s = [] -> room (wd s) < need w \/ to_serve s)
  | Some (_, AtS6 _ _ m) => m = false
  | _ => True
  end.

(** Every byte of the limit is room, or somebody's. *)
Definition Bytes s :=
  limit s = room (wd s) + sum (share s) Sh + moving (lock s) + charged s /\ 0 <= held s.

(** While room is lent nobody waits, and the overflow is not lent. A share that is recalled is empty, and one that is
    not says that the word is lent, but for what the holder of the lock is doing to them one by one. *)
Definition Lent s :=
  (lent (wd s) = true -> queue s = [] /\ queued (wd s) = false /\ shut s = false /\ overflow <= room (wd s)) /\
  (forall i, 0 <= share s i /\ (recalled s i = true -> share s i = 0)) /\
  (forall i, (i < Sh)%nat -> recalled s i = false -> lent (wd s) = true) /\
  match lock s with
  | Some (_, AtK2 _ j z) => lent (wd s) = true /\ 0 <= z /\ (j <= Sh)%nat /\ (forall i, (i < Sh)%nat -> recalled s i = (i <? j)%nat)
  | Some (_, AtG4 j) => lent (wd s) = true /\ (j <= Sh)%nat /\ (forall i, (i < Sh)%nat -> recalled s i = negb (i <? j)%nat)
  | Some (_, c) =>
      (lent (wd s) = true -> forall i, (i < Sh)%nat -> recalled s i = false) /\
      match c with
      | AtJ2 _ | AtJ3 _ | AtJ4 _ | AtJ5 _ | AtA17 _ | AtZ2 _ | AtX2 => lent (wd s) = false
      | AtA10 _ _ | AtR9 _ _ | AtR10 _ _ => lent (wd s) = true
      | _ => True
      end
  | None => lent (wd s) = true -> forall i, (i < Sh)%nat -> recalled s i = false
  end.

(** Each waker that came in is in exactly one place. *)
Definition entered s w := match phases s w with Fresh | Passed | Trying _ => 0 | _ => 1 end.
Definition left s w := match ending s w with Some Left => 1 | _ => 0 end.
Definition Wakers s := forall w,
  count w (queue s) + count w (drains s) + sum (fun t => count w (batch_pc (pcs s t))) T
  + count w (batch_lock (lock s)) + woken s w + left s w = entered s w.

(** Who was granted was the first of those that were still there. *)
Inductive subseq : list nat -> list nat -> Prop :=
| sub_nil l : subseq [] l
| sub_take x g l : subseq g l -> subseq (x :: g) (x :: l)
| sub_skip x g l : subseq g l -> subseq g (x :: l).

Definition Order s :=
  (forall w, In w (grants s) -> gone s w = true) /\
  (forall pre x post, order s = pre ++ x :: post -> In x (grants s) -> Forall (fun y => gone s y = true) pre) /\
  subseq (grants s) (order s).

Record Inv s : Prop := {
  i_lk : Lk s; i_own : Own s; i_ownl : OwnLock s; i_queue : Queue s; i_ending : Ending s;
  i_drains : Drains s; i_flag : Flag s; i_snap : Snap s; i_head : WakeHead s; i_wdrains : WakeDrains s; i_found : Found s; i_bytes : Bytes s;
  i_wakers : Wakers s; i_order : Order s; i_lent : Lent s
}.

(** * Each step keeps each clause *)

Hypothesis need_nonneg : forall w, 0 <= need w.
Hypothesis overflow_nonneg : 0 <= overflow.

Ltac step_cases H := inversion H; subst; clear H; cbn in *.
Ltac in_lock :=
  match goal with |- context [lock ?s] => destruct (lock s) as [[? []] |] end; trivial;
  try match goal with r : after |- _ => destruct r end; trivial.
Ltac use_lock := match goal with H : lock _ = _ |- _ => rewrite H in * end.

Lemma keep_lk s t l s' : (t < T)%nat -> Inv s -> step W need Sh overflow s t l s' -> Lk s'.
Proof.
  intros Ht I H. pose proof (i_lk s I) as L. unfold Lk in *.
  step_cases H; trivial; try use_lock; cbn in *;
    try (destruct (lock s) as [[t0 c0] |]; cbn in * );
    try destruct L; try split; split_upd; try congruence; tauto.
Qed.

Ltac use_pc := match goal with H : pcs _ _ = _ |- _ => progress rewrite H in * end.

(** Splits what is known, and what decides. *)
Ltac split_and :=
  repeat match goal with H : _ /\ _ |- _ => destruct H end;
  repeat match goal with |- _ /\ _ => split end.
Ltac crush := split_and; trivial; first [lia | congruence].
Ltac split_matches :=
  repeat match goal with
  | |- context [match ?x with _ => _ end] =>
      lazymatch x with context [match _ with _ => _ end] => fail | _ => destruct x eqn:?; cbn in * end
  | H : context [match ?x with _ => _ end] |- _ =>
      lazymatch x with context [match _ with _ => _ end] => fail | _ => destruct x eqn:?; cbn in * end
  end.
Ltac split_goal :=
  repeat match goal with
  | |- context [match ?x with _ => _ end] =>
      lazymatch x with context [match _ with _ => _ end] => fail | _ => destruct x eqn:?; cbn end
  end.
Ltac split_eqb :=
  unfold upd in *;
  repeat match goal with
  | |- context [Nat.eqb ?a ?b] => destruct (Nat.eqb_spec a b); subst; cbn in *
  | H : context [Nat.eqb ?a ?b] |- _ => destruct (Nat.eqb_spec a b); subst; cbn in *
  end.

Lemma keep_own s t l s' : (t < T)%nat -> Inv s -> step W need Sh overflow s t l s' -> Own s'.
Proof.
  intros Ht I H. pose proof (i_own s I) as O. pose proof (i_ownl s I) as OL. pose proof (i_lk s I) as L.
  unfold Own, OwnLock, Lk in *.
  intro t'. pose proof (O t') as O'. pose proof (O t) as Ot. clear O I.
  (step_cases H; try use_lock; try use_pc; cbn in *; trivial).
  all: try (unfold upd; destruct (Nat.eqb_spec t' t); [subst; cbn; split_goal; split_eqb; crush | ]).
  all: try (destruct (pcs s t') eqn:?; try match goal with c : call |- _ => destruct c end; trivial; split_eqb; intuition congruence).
Qed.

Lemma keep_ownl s t l s' : (t < T)%nat -> Inv s -> step W need Sh overflow s t l s' -> OwnLock s'.
Proof.
  intros Ht I H. pose proof (i_own s I t) as O. pose proof (i_ownl s I) as OL. unfold OwnLock in *. clear I.
  step_cases H; try use_lock; try use_pc; cbn in *; trivial.
  all: try solve [in_lock; split_eqb; intuition congruence].
  all: try solve [split_goal; crush].
  all: try match goal with r : after |- _ => destruct r; cbn in *; trivial; crush end.
  all: try match goal with c : call |- _ => destruct c; cbn in *; trivial; crush end.
Qed.

Lemma in_order s w : Inv s -> In w (order s) -> alive s w \/ ending s w <> None.
Proof.
  intros I Hw. destruct (i_ending s I) as (_ & E2 & E3 & _ & _ & E6). specialize (E2 w Hw). specialize (E3 w Hw).
  destruct (gone s w); [| tauto].
  destruct (ending s w) eqn:N; [right; congruence | left]. specialize (E3 eq_refl eq_refl).
  unfold pending in *. destruct (lock s) as [[? []] |]; try tauto. subst. tauto.
Qed.

Lemma outside_is s w :
  Inv s -> outside s w -> ending s w = None /\ ~ In w (order s) /\ ~ In w (drains s) /\ gone s w = false.
Proof.
  intros I Hp. destruct (i_ending s I) as (_ & _ & _ & P & _). specialize (P w Hp).
  assert (~ In w (order s)) as NO.
  { intro Hw. destruct (in_order s w I Hw) as [A | A]; [| tauto].
    unfold alive, outside in *. now destruct (phases s w). }
  repeat split; trivial.
  - intro Hd. destruct (i_drains s I) as (_ & D). apply D in Hd. destruct Hd as (_ & _ & A).
    unfold draining, outside in *. now destruct (phases s w).
  - destruct (gone s w) eqn:G; trivial. destruct (i_queue s I) as (_ & _ & Q & _). elim NO. now apply Q.
Qed.

(** For a statement on every waiter: that of the step, and the others. *)
Ltac each_waiter QA :=
  let w' := fresh "w" in intro w'; specialize (QA w'); split_eqb; rewrite_phase; cbn in *; try tauto
with rewrite_phase := repeat match goal with H : phases _ _ = _ |- _ => rewrite H in * end.

Lemma keep_queue s t l s' : (t < T)%nat -> Inv s -> step W need Sh overflow s t l s' -> Queue s'.
Proof.
  intros Ht I H. pose proof (i_ownl s I) as OL. pose proof (i_own s I t) as O.
  pose proof (i_queue s I) as (QN & QE & QG & QA). unfold Queue, OwnLock, alive in *.
  pose proof (fun w => outside_is s w I) as OUT. unfold outside in OUT.
  step_cases H; try use_lock; try use_pc; cbn in *; trivial.
  all: try solve [repeat split; trivial; clear OL O; each_waiter QA].
  - (* J5 *)
    destruct OL as (_ & P). specialize (OUT w). rewrite P in OUT. destruct OUT as (_ & NO & _ & G); trivial.
    repeat split.
    + now apply nodup_snoc.
    + rewrite QE, still_app. unfold still at 3. cbn. now rewrite G.
    + intros x Hx. apply in_or_app. left. now apply QG.
    + intros x Hx. apply in_or_app. destruct (Nat.eq_dec x w) as [-> | Hn]; [right; now left |].
      rewrite upd_other in Hx by assumption. left. now apply QA.
  - (* S4 *)
    destruct (i_ending s I) as (_ & _ & _ & _ & _ & E). rewrite H0 in E. destruct E as ((q & Eq) & _).
    assert (Hw : In w (still (gone s) (order s))) by (rewrite <- QE, Eq; now left).
    assert (NQ : NoDup (w :: q)) by (rewrite <- Eq, QE; now apply nodup_still).
    repeat split; trivial.
    + rewrite still_gone, <- QE, Eq. cbn. unfold del. cbn. destruct (Nat.eq_dec w w); [| congruence].
      inversion NQ. now rewrite del_notin.
    + intros x Hx. destruct (Nat.eq_dec x w) as [-> | Hn]; [| rewrite upd_other in Hx by assumption; now apply QG].
      apply in_still in Hw. tauto.
  - (* L3 *)
    destruct OL as (_ & P & _). assert (Hw : In w (order s)) by (apply QA; now rewrite P).
    repeat split; trivial.
    + now rewrite still_gone, <- QE.
    + intros x Hx. destruct (Nat.eq_dec x w) as [-> | Hn]; [assumption | rewrite upd_other in Hx by assumption; now apply QG].
    + intros x Hx. destruct (Nat.eq_dec x w) as [-> | Hn]; [assumption | rewrite upd_other in Hx by assumption; now apply QA].
Qed.

Lemma keep_ending s t l s' : (t < T)%nat -> Inv s -> step W need Sh overflow s t l s' -> Ending s'.
Proof.
  intros Ht I H. pose proof (i_ownl s I) as OL. pose proof (i_own s I t) as O.
  pose proof (i_queue s I) as (QN & QE & QG & QA).
  pose proof (i_ending s I) as (E1 & E2 & E3 & EO & ED & EL).
  pose proof (i_drains s I) as (_ & D).
  pose proof (fun w => outside_is s w I) as OUT.
  pose proof (fun w => in_order s w I) as INO.
  assert (QS : forall w, In w (queue s) -> In w (order s) /\ gone s w = false)
    by (intro w0; rewrite QE; apply in_still).
  unfold Ending, OwnLock, alive, draining, outside in *.
  step_cases H; try use_lock; try use_pc; cbn in *; trivial.
  all: clear I Ht need_nonneg QN.
  all: repeat match goal with |- _ /\ _ => split end; trivial.
  all: try solve [clear QS INO O OL D OUT QA QE QG EO ED EL E2 E3; each_waiter E1].
  all: try solve [clear QS INO O OL D OUT QA QE QG EO ED EL E1 E3; each_waiter E2].
  all: try solve [clear QS INO O OL D OUT QA QE QG EO ED EL E1 E2; each_waiter E3].
  all: try solve [clear QS INO O OL D OUT QA QE QG E1 E3 ED EL E1 E2; each_waiter EO].
  all: try solve [clear QS INO O OL D OUT QA QE QG E1 E3 EO EL E1 E2; each_waiter ED].
  all: try solve [clear QS INO O OL D OUT QA QE QG E1 E2 E3 EO ED;
    in_lock; split_eqb; rewrite_phase; tauto].
  all: try solve [intro w'; repeat match goal with Q : forall w : nat, _ |- _ => specialize (Q w') end;
    split_eqb; split_and; rewrite_phase; cbn in *; intuition congruence].
  all: try solve [eexists; eassumption].
  all: try solve [match goal with c : call |- _ => now destruct c end].
  all: try solve [match goal with r : after |- _ => now destruct r end].
  - (* Poll *)
    clear QS INO D OUT QA QE QG E1 E2 E3 EO ED OL. in_lock. split_eqb; intuition congruence.
  - (* J5 *)
    intros x Hx. apply in_app_or in Hx. destruct Hx as [Hx | [<- | []]]; [now apply E1 |].
    destruct OL as (L & P). split; [assumption |]. rewrite EO by now rewrite P. discriminate.
  - intros x Hx G. apply in_app_or in Hx. destruct OL as (_ & P).
    destruct Hx as [Hx | [<- | []]].
    + destruct (E2 x Hx G). split; [assumption |]. split_eqb; trivial.
    + rewrite upd_same. split; [| trivial]. apply EO. now rewrite P.
  - destruct EL as ((q & Eq) & _). apply (QS w). rewrite Eq. now left.
  - apply upd_same.
  - destruct EL as ((q & Eq) & _). destruct (QS w) as (A & B); [rewrite Eq; now left |]. now apply E2.
  - destruct EL as ((q & Eq) & _). destruct (QS w) as (A & B); [rewrite Eq; now left |]. now apply E2.
  - (* S5 *)
    intros x Hx. destruct (Nat.eq_dec x w) as [-> | Hn].
    + destruct EL as (_ & _ & _ & A & _). now destruct (phases s w).
    + rewrite upd_other by assumption. now apply ED.
  - (* S6, the drains *)
    assert (Hd : In w (drains s)) by (rewrite H1; now left). apply D in Hd. destruct Hd as (_ & N & P).
    intros x Hx. destruct (E1 x Hx). split; [assumption |]. split_eqb; [| assumption].
    destruct (INO w Hx) as [A | A]; [now destruct (phases s w) | tauto].
  - assert (Hd : In w (drains s)) by (rewrite H1; now left). apply D in Hd. destruct Hd as (_ & N & P).
    intros x Hx G. destruct (E2 x Hx G). split_eqb; [| tauto]. now destruct (phases s w).
  - assert (Hd : In w (drains s)) by (rewrite H1; now left). apply D in Hd. destruct Hd as (_ & N & P).
    intros x Hx. split_eqb; [now destruct (phases s w) | now apply EO].
  - destruct (queue s); [trivial |]. now destruct (Nat.eqb n w).
  - now destruct (drains s).
Qed.

Lemma keep_drains s t l s' : (t < T)%nat -> Inv s -> step W need Sh overflow s t l s' -> Drains s'.
Proof.
  intros Ht I H. pose proof (i_ownl s I) as OL. pose proof (i_own s I t) as O.
  pose proof (i_ending s I) as (E1 & _ & _ & _ & ED & EL).
  pose proof (i_drains s I) as (DN & D).
  pose proof (fun w => outside_is s w I) as OUT.
  unfold Drains, OwnLock, alive, draining, outside in *.
  step_cases H; try use_lock; try use_pc; cbn in *; trivial.
  all: clear I Ht need_nonneg.
  all: repeat match goal with |- _ /\ _ => split end; trivial.
  all: try solve [clear O OL OUT EL; each_waiter D].
  all: try solve [intro w'; repeat match goal with Q : forall w : nat, _ |- _ => specialize (Q w') end;
    split_eqb; split_and; rewrite_phase; cbn in *; intuition congruence].
  - (* S5 *)
    destruct EL as (_ & _ & N & A & _). intro x. specialize (D x). split_eqb; [| assumption].
    destruct (phases s w); tauto || (split; [intuition congruence | intuition congruence]).
  - (* S6 *)
    rewrite H1 in DN. now inversion DN.
  - rewrite H1 in D, DN. inversion DN as [| ? ? DNw DN']. subst. intro x. specialize (D x). cbn in D.
    split_eqb; intuition (congruence || auto).
  - (* D2 *)
    destruct OL as (_ & P). apply nodup_snoc; [assumption | apply OUT; now rewrite P].
  - destruct OL as (L & P). intro x. specialize (D x). rewrite in_app_iff. cbn.
    assert (N : ending s w = None) by (apply OUT; now rewrite P). split_eqb; intuition congruence.
  - destruct OL as (_ & P). apply nodup_snoc; [assumption | apply OUT; now rewrite P].
  - destruct OL as (L & P). intro x. specialize (D x). rewrite in_app_iff. cbn.
    assert (N : ending s w = None) by (apply OUT; now rewrite P). split_eqb; intuition congruence.
  - (* E2 *) now apply nodup_del.
  - intro x. specialize (D x). rewrite in_del. split_eqb; intuition congruence.
Qed.

Ltac bools :=
  repeat match goal with
  | H : ?b = true -> _ |- _ => destruct b eqn:?; [specialize (H eq_refl) | clear H]
  end.

Lemma watched_cases q d b :
  is_watched q d b = match q with [] => match d with [] => false | _ => b end | _ => true end.
Proof. now destruct q, d. Qed.

Lemma keep_flag s t l s' : (t < T)%nat -> Inv s -> step W need Sh overflow s t l s' -> Flag s'.
Proof.
  intros Ht I H. pose proof (i_own s I t) as O. pose proof (i_flag s I) as (FC & F).
  pose proof (i_ending s I) as (_ & _ & _ & _ & _ & EL).
  pose proof (i_found s I) as FO. pose proof (i_lent s I) as (LE & _).
  unfold Flag, Own, Found, watched, admits in *. clear I.
  step_cases H; try use_lock; try use_pc; cbn in *; unfold watched in *; cbn in *.
  all: try solve [repeat split; trivial; tauto].
  all: repeat match goal with H : queue _ = _ |- _ => rewrite H in * end.
  all: rewrite ?watched_cases in *; cbn in *.
  all: try solve [split; [trivial | split_goal; split_and; cbn in *; repeat match goal with |- _ /\ _ => split end; intuition congruence]].
  all: try solve [split; [trivial |]; destruct (queue s) eqn:EQ, (drains s) eqn:ED, (shut s) eqn:ES, (queued (wd s)) eqn:EW;
    cbn in *; split_and; subst; cbn in *; trivial; intuition congruence].
  all: split; trivial.
  all: try solve [match goal with c : call |- _ => destruct c end; cbn; trivial; intro A; destruct (queue s), (drains s); congruence].
  all: try solve [match goal with c : call |- _ => now destruct c end].
  all: try solve [match goal with r : after |- _ => now destruct r end].
  - (* S6, the drains *)
    match goal with E : drains _ = _ |- _ => rewrite E in F end. destruct F as (F1 & F2). split; [| assumption].
    intro A. apply F1. destruct (queue s); [| reflexivity]. now destruct d.
  - (* S7 *)
    destruct F as (F1 & F2). rewrite F2.
    destruct (queued (wd s)), (queue s), (drains s), (shut s); cbn in *; intuition congruence.
  - (* L3 *)
    destruct (queue s) as [| x q] eqn:EQ; cbn in *; [assumption |].
    destruct (Nat.eqb_spec x w); cbn; [intro; congruence |].
    unfold del. cbn. destruct (Nat.eq_dec w x); [congruence | assumption].
  - (* E2 *)
    rewrite F. destruct (queue s); [| split; trivial]. destruct (drains s); [cbn; split; trivial |].
    destruct (del w (n :: l)); split; trivial; intros; congruence.
Qed.

(** One on its way stays there, unless it is the thread that steps. *)
Lemma coming_kept m t p : coming m -> (on_way (m t) = true -> on_way p = true) -> coming (upd m t p).
Proof.
  intros (t' & H) N. exists t'. destruct (Nat.eq_dec t' t) as [-> |]; [rewrite upd_same; auto | now rewrite upd_other].
Qed.

Lemma coming_new m t p : on_way p = true -> coming (upd m t p).
Proof. intro. exists t. now rewrite upd_same. Qed.

Ltac way :=
  first [ assumption | apply coming_new; reflexivity | apply coming_kept; [tauto | use_pc; cbn; first [discriminate | split_goal; (assumption || discriminate || reflexivity)]] ].

Lemma keep_snap s t l s' : (t < T)%nat -> Inv s -> step W need Sh overflow s t l s' -> Snap s'.
Proof.
  intros Ht I H. pose proof (i_own s I t) as O. pose proof (i_flag s I) as (FC & F).
  pose proof (i_lent s I) as (LE & _ & _ & LC).
  pose proof (i_snap s I) as S. pose proof (i_lk s I) as L.
  unfold Snap, Own, watched, admits, to_serve, Lk in *. clear I.
  step_cases H; try use_lock; try use_pc; cbn in *; trivial.
  all: try (destruct (lock s) as [[t0 c0] |]; trivial; cbn in *; destruct (snapshot c0); trivial).
  all: try solve [intros Q; split_and; rewrite ?Q in *; try specialize (S eq_refl); split_and; try split;
    intros; first [congruence | lia | way]].
  all: try solve [match goal with c : call |- _ => now destruct c end].
  all: try solve [match goal with r : after |- _ => now destruct r end].
  - (* A13 *) intro Q. destruct O as (_ & LT & _). destruct (LE LT) as (_ & Q' & _). congruence.
  - destruct (queue s); [exact Logic.I |]. now destruct (Nat.eqb n w).
  - now destruct (drains s).
Qed.


Lemma unflagged s :
  Inv s -> settled (lock s) = true -> queued (wd s) = false -> queue s = [] /\ (shut s = true -> drains s = []).
Proof.
  intros I ST Q. destruct (i_flag s I) as (_ & F). unfold watched in F. rewrite Q in F.
  destruct (lock s) as [[t []] |]; cbn in *; try discriminate; try (destruct more; try discriminate);
    split_and; try (symmetry in F); repeat split; intros; destruct (queue s), (drains s), (shut s); cbn in *;
    intuition congruence.
Qed.

Lemma keep_head s t l s' : (t < T)%nat -> Inv s -> step W need Sh overflow s t l s' -> WakeHead s'.
Proof.
  intros Ht I H. pose proof (unflagged s I) as UF. pose proof (i_own s I t) as O. pose proof (i_flag s I) as (FC & F).
  pose proof (i_lent s I) as (LE & _ & _ & LC).
  pose proof (i_snap s I) as S. pose proof (i_head s I) as K. pose proof (i_found s I) as FO. pose proof (i_lk s I) as L.
  unfold WakeHead, Flag, Snap, Own, Found, watched, admits, to_serve, head_waits, Lk in *. clear I.
  step_cases H; try use_lock; try use_pc; cbn in *; trivial.
  all: intro ST; try discriminate.
  all: try (specialize (K ST)).
  all: try solve [tauto].
  all: try solve [destruct K as [K | K]; [left; exact K | right; way]].
  all: try solve [left; rewrite (proj1 (LE ltac:(tauto))); exact Logic.I].
  all: try solve [match goal with A : admits _ _ |- _ =>
    destruct A as (_ & A & _); left; rewrite (proj1 (UF eq_refl A)); exact Logic.I end].
  - (* A4 *) destruct (UF ST) as (-> & _); [tauto | now left].
  - (* R1 *)
    destruct (queued (wd s)); [right; now apply coming_new |].
    destruct (UF ST eq_refl) as (-> & _). now left.
  - (* locked *)
    try specialize (K eq_refl); destruct K as [K' | K']; [now left | right]. apply coming_kept; [assumption | use_pc].
    destruct c; cbn in *; discriminate.
  - (* unlocked *)
    try specialize (K eq_refl); destruct K as [K' | K']; [now left | right]. apply coming_kept; [assumption |].
    destruct L as (-> & _). discriminate.
  - (* J4 *) destruct F as (_ & -> & _). now left.
  - (* J5 *)
    try specialize (K eq_refl); destruct K as [K' | K']; [| now right]. destruct (queue s) as [| x q]; cbn.
    + destruct FO as (? & ? & [? | ?]); trivial; [left; auto | now right].
    + now left.
  - (* S3, it does not fit *)
    rewrite H1 in *. destruct F as (F & _). destruct (S (F eq_refl)) as (S1 & S2).
    destruct (Z_lt_dec (room v) (room (wd s))); [right; auto | left; repeat split; trivial; lia].
  - (* S3, nobody is there *) rewrite H1. now left.
  - (* S7 *)
    destruct m; [right; now apply coming_new |].
    try specialize (K eq_refl); destruct K as [K' | K']; [now left | right]. apply coming_kept; [assumption |].
    destruct L as (-> & _). discriminate.
  - (* L3 *)
    try specialize (K eq_refl); destruct K as [K' | K']; [| now right]. left.
    destruct (queue s) as [| x q]; [exact Logic.I |].
    destruct (Nat.eqb_spec x w); [discriminate |]. unfold del. cbn. destruct (Nat.eq_dec w x); [congruence | exact K'].
  - (* K2 *)
    now destruct (drains s).
Qed.

Lemma keep_wdrains s t l s' : (t < T)%nat -> Inv s -> step W need Sh overflow s t l s' -> WakeDrains s'.
Proof.
  intros Ht I H. pose proof (unflagged s I) as UF. pose proof (i_own s I t) as O. pose proof (i_flag s I) as (FC & F).
  pose proof (i_lent s I) as (LE & _ & _ & LC).
  pose proof (i_snap s I) as S. pose proof (i_wdrains s I) as K. pose proof (i_found s I) as FO. pose proof (i_lk s I) as L.
  unfold WakeDrains, Flag, Snap, Own, Found, watched, admits, to_serve, drains_wait, Lk in *. clear I.
  assert (UF' : drained (lock s) = true -> queued (wd s) = false -> queue s = [] /\ (shut s = true -> drains s = [])).
  { intro D. apply UF. unfold drained in D. now apply andb_true_iff in D. } clear UF.
  step_cases H; try use_lock; try use_pc; cbn in *; trivial.
  all: intro ST; try discriminate.
  all: try (specialize (K ST)).
  all: try solve [tauto].
  all: try solve [destruct K as [K | K]; [left; exact K | right; way]].
  all: try solve [match goal with A : admits _ _ |- _ => destruct A as (_ & _ & A & _); left; intros; congruence end].
  - (* R5 *)
    destruct (queued (wd s)); [right; now apply coming_new |].
    destruct (UF' ST eq_refl) as (_ & D). left. intros A B. now apply D in A.
  - (* locked *)
    try specialize (K eq_refl); destruct K as [K' | K']; [now left | right]. apply coming_kept; [assumption | use_pc].
    destruct c; cbn in *; discriminate.
  - (* unlocked *)
    try specialize (K eq_refl); destruct K as [K' | K']; [now left | right]. apply coming_kept; [assumption |].
    destruct L as (-> & _). discriminate.
  - (* S6, the drains do not go yet *)
    match goal with X : _ \/ room _ <> _ |- _ => destruct X; left; congruence end.
  - (* S7 *)
    destruct m; [right; now apply coming_new |].
    try specialize (K eq_refl); destruct K as [K' | K']; [now left | right]. apply coming_kept; [assumption |].
    destruct L as (-> & _). discriminate.
  - (* K2 *)
    now destruct (drains s).
  - (* D2 *) left. congruence.
  - (* E2 *)
    try specialize (K eq_refl); destruct K as [K' | K']; [left | now right].
    intros A B. apply K'; [assumption |]. intros E. now rewrite E in B.
Qed.

Lemma keep_found s t l s' : (t < T)%nat -> Inv s -> step W need Sh overflow s t l s' -> Found s'.
Proof.
  intros Ht I H. pose proof (unflagged s I) as UF. pose proof (i_own s I t) as O. pose proof (i_flag s I) as (FC & F).
  pose proof (i_lent s I) as (LE & _ & _ & LC).
  pose proof (i_snap s I) as S. pose proof (i_found s I) as FO. pose proof (i_lk s I) as L.
  unfold Found, Flag, Snap, Own, Found, watched, admits, to_serve, Lk in *. clear I.
  step_cases H; try use_lock; try use_pc; cbn in *; trivial.
  all: try tauto.
  all: try solve [in_lock; cbn in *; split_and; trivial;
                  intro Q; match goal with H : queue _ = [] -> _ |- _ => destruct (H Q) end; [left; assumption | right; way]].
  all: try solve [match goal with c : call |- _ => now destruct c end].
  all: try solve [match goal with r : after |- _ => now destruct r end].
  - (* C3 *)
    in_lock; cbn in *; split_and; congruence.
  - (* A13 *) in_lock; cbn in *; split_and; congruence.
  - (* R1 *)
    in_lock; cbn in *. destruct FO as (A & B & D), F as (Q & _).
    repeat split; trivial. intros _. right. rewrite Q. now apply coming_new.
  - destruct (queue s); [exact Logic.I |]. now destruct (Nat.eqb n w).
  - now destruct (drains s).
Qed.

Lemma keep_bytes s t l s' : (t < T)%nat -> Inv s -> step W need Sh overflow s t l s' -> Bytes s'.
Proof.
  intros Ht I H. pose proof (i_own s I t) as O. pose proof (i_ownl s I) as OL. pose proof (i_bytes s I) as (B & B0).
  pose proof (i_ending s I) as (E1 & E2 & _ & EO & ED & EL). pose proof (i_lk s I) as L.
  pose proof (i_drains s I) as (_ & D).
  assert (OS : forall s', ending s' = ending s -> phases s' = phases s -> sum (owed s') W = sum (owed s) W).
  { intros s'' A C. apply sum_ext. intros. unfold owed. now rewrite A, C. }
  assert (OC : forall s' w, (w < W)%nat ->
    (forall j, j <> w -> ending s' j = ending s j /\ phases s' j = phases s j) ->
    sum (owed s') W = sum (owed s) W - owed s w + owed s' w).
  { intros s'' w0 Hw A. apply sum_change; [assumption |]. intros j Hj. unfold owed. destruct (A j Hj) as (-> & ->).
    reflexivity. }
  unfold Bytes, Own, charged, Lk, OwnLock in *.
  step_cases H; try use_lock; try use_pc; cbn in *.
  all: rewrite ?sum_upd by assumption; try use_pc; cbn; try rewrite (proj1 L); cbn.
  all: try (rewrite OS by reflexivity).
  all: try solve [lia].
  all: try solve [split; [destruct (queued (wd s)); cbn; lia | lia]].
  all: try solve [split; [destruct c; cbn; lia | lia]].
  all: try solve [destruct m; cbn; lia].
  Ltac owed_at D ED EO OC OL E1 w :=
    let Hw := fresh "Hw" in
    assert (Hw : (w < W)%nat)
      by (first [ assumption | exact (proj1 OL) | apply E1; tauto
                | apply D; match goal with E : drains _ = _ |- _ => rewrite E; now left end ]);
    rewrite (OC _ w Hw) by (intros; cbn; rewrite ?upd_other by assumption; auto);
    match goal with X : context [sum (owed ?s0) W] |- _ => set (Y := sum (owed s0) W) in *; clearbody Y end;
    specialize (D w); specialize (ED w); specialize (EO w);
    unfold owed, outside, alive, draining in *; cbn in *; rewrite ?upd_same.
  all: try (match goal with w : nat |- _ => owed_at D ED EO OC OL E1 w; specialize (need_nonneg w) end).
  all: clear OC OS E1 E2; split_and; rewrite_phase;
       repeat match goal with E : ending _ _ = _ |- _ => rewrite E in * end; cbn in *.
  all: try (rewrite EO by trivial); try (rewrite EO in * by trivial).
  all: try solve [cbn; try destruct e; try destruct h; cbn in *; lia].
  all: try solve [match goal with r : after |- _ => destruct r; cbn in *; lia end].
  all: try match goal with
    | |- context [sum (upd (share ?s0) ?i ?v) Sh] =>
        rewrite (sum_change (share s0) (upd (share s0) i v) Sh i)
          by first [assumption | tauto | intros; now rewrite upd_other]; rewrite upd_same; try lia
    end.
  - (* Poll *)
    destruct e; try lia. destruct H2 as [P | P]; rewrite P in *; [lia |]. destruct ED as [A | A]; trivial; discriminate.
  - (* S5 *) destruct e, (phases s w); cbn in *; try tauto; lia.
  - (* S6, the drains *)
    destruct D as (D & _). destruct D as (_ & -> & _); [rewrite H1; now left | lia].
  - (* L3 *) destruct (queue s); cbn; [lia |]. destruct (Nat.eqb n w); cbn; lia.
  - (* K2 *) destruct (drains s); cbn; lia.
Qed.

Lemma keep_wakers s t l s' : (t < T)%nat -> Inv s -> step W need Sh overflow s t l s' -> Wakers s'.
Proof.
  intros Ht I H. pose proof (i_own s I t) as O. pose proof (i_ownl s I) as OL. pose proof (i_wakers s I) as B.
  assert (NQ : NoDup (queue s)) by (destruct (i_queue s I) as (QN & -> & _); now apply nodup_still).
  assert (QS : forall w, phases s w = Leaving t -> ending s w = None -> In w (queue s) \/ pending (lock s) w).
  { intros w P N. destruct (i_queue s I) as (_ & -> & _ & QA). destruct (i_ending s I) as (_ & _ & E3 & _).
    assert (In w (order s)) by (apply QA; unfold alive; now rewrite P).
    destruct (gone s w) eqn:G; [right; now apply E3 | left; apply in_still; tauto]. }
  pose proof (i_ending s I) as (E1 & E2 & _ & EO & ED & EL). pose proof (i_lk s I) as L.
  pose proof (i_drains s I) as (DN & D).
  unfold Wakers, Own, Lk, OwnLock, entered, left in *. intro x. specialize (B x).
  specialize (D x). specialize (ED x). specialize (EO x).
  step_cases H; try use_lock; try use_pc; cbn in *.
  all: rewrite ?(sum_upd _ (fun p => count x (batch_pc p))) by assumption; try use_pc; cbn; try rewrite (proj1 L); cbn.
  all: repeat match goal with E : queue _ = _ |- _ => rewrite E in * | E : drains _ = _ |- _ => rewrite E in * end.
  all: cbn in *; rewrite ?count_app; cbn.
  all: try solve [lia].
  all: try solve [destruct (queued (wd s)); cbn; lia].
  all: try solve [destruct c; cbn; lia].
  all: try solve [destruct m; cbn; lia].
  all: try solve [destruct (drains s); cbn in *; lia].
  all: try solve [destruct e, h; split_eqb; split_and; rewrite_phase; cbn in *; lia].
  all: try solve [split_eqb; split_and; rewrite_phase; cbn in *; lia].
  all: try solve [match goal with r : after |- _ => destruct r; cbn in *; lia end].
  - (* Poll *)
    unfold draining in ED. split_eqb; [| assumption]. rewrite H3 in *. destruct H2 as [P | P]; rewrite P in *; lia.
  - (* S4 *)
    destruct EL as ((q & Eq) & _). rewrite Eq in *. cbn in *. lia.
  - (* S5 *) destruct EL as (_ & _ & N & _ & NL & _). split_eqb; [| assumption]. rewrite N in B. destruct e; congruence || lia.
  - (* S6, the drains *)
    split_eqb; [| lia]. destruct D as (D & _). destruct D as (_ & N & _); [now left |]. rewrite N in B. lia.
  - (* L3 *)
    destruct OL as (_ & P & N). destruct (QS w P N) as [Hq | []]. specialize (count_nodup w (queue s) NQ Hq). intro C.
    assert (batch_crit match queue s with [] => Exit Idle | y :: _ => if (y =? w)%nat then AtS2 [] else Exit Idle end = [])
      as -> by (destruct (queue s); [reflexivity | now destruct (Nat.eqb n w)]).
    cbn. destruct (Nat.eq_dec x w) as [-> | Hn].
    + rewrite !upd_same, count_del_same. rewrite N, P in B. lia.
    + rewrite !upd_other, count_del_other by assumption. lia.
  - (* E2 *)
    destruct OL as (Hw & P). destruct (Nat.eq_dec x w) as [-> | Hn].
    + rewrite !upd_same, count_del_same. rewrite P, H1 in *.
      rewrite (count_nodup w (drains s) DN) in B by (apply D; unfold draining; rewrite P; tauto). lia.
    + rewrite !upd_other, count_del_other by assumption. lia.
Qed.

Lemma subseq_snoc g l x : subseq g l -> subseq g (l ++ [x]).
Proof. induction 1; cbn; constructor; assumption. Qed.

Lemma subseq_front g p r : subseq g (p ++ r) -> (forall x, In x g -> ~ In x r) -> subseq g p.
Proof.
  revert g. induction p as [| a p IH]; intros g H N; cbn in *.
  - destruct g as [| x g]; [constructor |]. exfalso. apply (N x); [now left |].
    clear N. remember (x :: g) as h eqn:E. revert x g E. induction H; intros; [discriminate | injection E as -> ->; now left |].
    right. eauto.
  - inversion H; subst; [constructor | |].
    + constructor. apply IH; [assumption |]. intros y Hy. apply N. now right.
    + constructor. now apply IH.
Qed.

Lemma subseq_add g p x r : subseq g p -> subseq (g ++ [x]) (p ++ x :: r).
Proof.
  induction 1 as [l | y g l H IH | y g l H IH]; cbn; [| now constructor | now constructor].
  induction l as [| a l IH]; cbn; constructor; [constructor | assumption].
Qed.

Lemma keep_order s t l s' : (t < T)%nat -> Inv s -> step W need Sh overflow s t l s' -> Order s'.
Proof.
  intros Ht I H. pose proof (i_queue s I) as (QN & QE & QG & QA). pose proof (i_ownl s I) as OL.
  pose proof (i_ending s I) as (E1 & E2 & _ & EO & ED & EL).
  pose proof (i_order s I) as (G & P & S). pose proof (fun w => outside_is s w I) as OUT.
  unfold Order, OwnLock in *.
  step_cases H; try use_lock; cbn in *; try solve [repeat split; assumption].
  - (* J5 *)
    destruct OL as (_ & PH). destruct (OUT w) as (_ & NO & _ & GW); [unfold outside; now rewrite PH |].
    repeat split; [assumption | | now apply subseq_snoc].
    intros pre x post E Hx. destruct (exists_last (l := x :: post)) as (m & z & Em); [discriminate |].
    rewrite Em, app_assoc in E. apply app_inj_tail in E. destruct E as (E & <-).
    destruct m as [| y m]; cbn in Em.
    + injection Em as -> ->. rewrite (G _ Hx) in GW. discriminate.
    + injection Em as -> ->. now apply (P pre y m).
  - (* S4 *)
    destruct EL as ((q & Eq) & _). rewrite QE in Eq. destruct (still_head _ _ _ _ Eq) as (pre & post & Eo & Fp).
    assert (Hw : In w (still (gone s) (order s))) by (rewrite Eq; now left). apply in_still in Hw. destruct Hw as (Hw & GW).
    assert (Fu : forall l, Forall (fun y => gone s y = true) l -> Forall (fun y => upd (gone s) w true y = true) l).
    { intros l. apply Forall_impl. intros a A. split_eqb; trivial. }
    destruct e; try (repeat split; trivial; [intros x Hx; split_eqb; auto | intros; apply Fu; eauto]).
    repeat split.
    + intros x Hx. split_eqb; trivial. apply in_app_or in Hx. destruct Hx as [Hx | [<- | []]]; [auto | congruence].
    + intros pre' x post' E' Hx. apply Fu. apply in_app_or in Hx. destruct Hx as [Hx | [<- | []]]; [eauto |].
      rewrite E' in Eo, QN. destruct (nodup_split _ _ _ _ _ QN Eo) as (-> & _). assumption.
    + rewrite Eo. apply subseq_add. rewrite Eo in S. apply (subseq_front _ _ _ S).
      intros x Hx [-> | Hp]; [rewrite (G _ Hx) in GW; discriminate |].
      apply in_split in Hp. destruct Hp as (l1 & l2 & ->).
      assert (A : Forall (fun y => gone s y = true) (pre ++ w :: l1)).
      { apply (P _ x l2); [rewrite Eo, <- app_assoc; reflexivity | assumption]. }
      rewrite Forall_forall in A. rewrite (A w) in GW; [discriminate | apply in_elt].
  - (* L3 *)
    repeat split; trivial; [intros x Hx; split_eqb; auto |].
    intros pre x post E Hx. eapply Forall_impl; [| eapply P; eassumption]. intros a A. cbn. split_eqb; trivial.
Qed.

Lemma keep_lent s t l s' : (t < T)%nat -> Inv s -> step W need Sh overflow s t l s' -> Lent s'.
Proof.
  intros Ht I H. pose proof (i_lent s I) as (L1 & L2 & L3' & L4). pose proof (i_own s I t) as O.
  pose proof (i_ownl s I) as OL. pose proof (i_flag s I) as (FC & F).
  unfold Lent, Own, OwnLock, Flag in *. clear I need_nonneg.
  step_cases H; try use_lock; try use_pc; cbn in *.
  all: repeat match goal with |- _ /\ _ => split end; trivial.
  all: try solve [intro A; destruct (L1 A) as (? & ? & ? & ?); split_and; trivial; lia || congruence].
  all: try solve [intuition congruence].
  (* The shares are not negative, and empty if recalled. *)
  all: try solve [match goal with |- forall _ : nat, 0 <= upd (share ?s0) ?i _ _ /\ _ =>
    let k := fresh "k" in intro k; pose proof (L2 i); specialize (L2 k); unfold upd; destruct (Nat.eqb_spec k i);
      [subst k; split_and; [lia | intro; first [discriminate | reflexivity | lia |
         exfalso; assert (recalled s0 i = false) by auto; congruence]] | exact L2] end].
  (* One that is not recalled says that the word is lent. *)
  all: try solve [let k := fresh "k" in let A := fresh in
    intros k Hk A; unfold upd in A; destruct (Nat.eqb_spec k i); [subst; apply (L3' i); tauto | now apply (L3' k)]].
  all: try solve [match goal with r : after |- _ => destruct r; cbn; split_and; trivial; intuition congruence end].
  all: try solve [match goal with c : call |- _ => destruct c; cbn; split_and; trivial; intuition congruence end].
  all: try solve [destruct (queue s) as [| y q]; [| destruct (Nat.eqb y w)]; split_and; trivial; intuition congruence].
  all: try solve [destruct (drains s); split_and; trivial; intuition congruence].
  all: try lia.
  all: try solve [intro A; split_and; destruct (L1 A) as (? & ? & ? & ?); split_and; trivial; lia || congruence].
  all: try solve [match goal with RI : recalled ?s0 ?i = false |- context [upd (recalled ?s0) ?i false] =>
    assert (RU : forall k, upd (recalled s0) i false k = recalled s0 k)
      by (intro k; unfold upd; destruct (Nat.eqb_spec k i); congruence);
    destruct (lock s0) as [[? c0] |]; [destruct c0 |]; split_and; trivial; intros; rewrite ?RU; auto end].
  all: try solve [intros A k Hk; unfold upd; destruct (Nat.eqb_spec k i); subst; split_and;
    match goal with X : lent _ = true -> forall _, _ |- _ => apply X; trivial end].
  all: try solve [match goal with |- 0 <= _ + share _ ?j => pose proof (L2 j) end; split_and; lia].
  all: try solve [intros k Hk; unfold upd; split_and;
    match goal with X : forall _, _ -> recalled _ _ = _ |- context [Nat.eqb _ ?j] =>
      destruct (Nat.eqb_spec k j); [subst k | rewrite (X k Hk)];
      destruct (Nat.ltb_spec j (S j)); try destruct (Nat.ltb_spec k j); try destruct (Nat.ltb_spec k (S j)); cbn; trivial; lia end].
  all: try solve [intros k Hk A; split_and;
    match goal with X : forall _, _ -> recalled _ _ = _ |- _ => rewrite (X k Hk) in A; apply Nat.ltb_ge in A; lia end].
  all: try solve [intros k Hk; destruct (recalled s k) eqn:E;
    [destruct (Nat.ltb_spec k 0); [lia | reflexivity] | specialize (L3' k Hk E); congruence]].
  all: try solve [intros A k Hk; split_and; match goal with X : forall _, _ -> recalled _ _ = _ |- _ => rewrite (X k Hk) end;
    destruct (Nat.ltb_spec k Sh); [reflexivity | lia]].
  all: try solve [intro X; split_and; match goal with A : admits _ _ |- _ => destruct A as (A & _); congruence end].
  (* G3: no flag is set, so nobody waits. *)
  all: try solve [intros _; unfold watched, is_watched in F; destruct (queue s); [| destruct (drains s); congruence];
    repeat split; trivial; congruence].
  all: intro A; destruct (L1 A) as (? & Q & ? & ?); rewrite Q; split_and; trivial; now destruct (_ && _).
Qed.

(** * The whole *)

Lemma inv_init l : Inv (init l).
Proof.
  assert (Z0 : forall (f : nat -> Z) n, (forall i, f i = 0) -> sum f n = 0) by (intros; now apply sum_zero).
  constructor; cbn; unfold Own, Queue, Ending, Drains, Flag, WakeHead, WakeDrains, Bytes, Wakers, Order, alive, outside,
    draining, head_waits, drains_wait, charged, entered, left, owed, watched; cbn; trivial.
  - split; [apply NoDup_nil |]. repeat split; trivial; intros; tauto || discriminate.
  - repeat split; trivial; tauto.
  - split; [apply NoDup_nil | tauto].
  - split; reflexivity.
  - now left.
  - left. discriminate.
  - rewrite !Z0 by reflexivity. lia.
  - intro. rewrite Z0 by reflexivity. lia.
  - repeat split; [tauto | | constructor]. intros [] ? ? E; discriminate.
  - unfold Lent. cbn. repeat split; trivial; intros; (lia || discriminate).
Qed.

Lemma inv_step s t l s' : (t < T)%nat -> Inv s -> step W need Sh overflow s t l s' -> Inv s'.
Proof.
  intros; constructor; eauto using keep_lk, keep_own, keep_ownl, keep_queue, keep_ending, keep_drains, keep_flag,
    keep_snap, keep_head, keep_wdrains, keep_found, keep_bytes, keep_wakers, keep_order, keep_lent.
Qed.

Theorem inv_reach s : reach T W need Sh overflow s -> Inv s.
Proof. induction 1; [apply inv_init | eapply inv_step; eassumption]. Qed.

End Inv.
