(** The slot's protocol: any number of slots, entries and threads, each of which may have won any number of slots
    (a sweep's batch, several claims). Steps carry the labels of docs/proof.md.

    An entry is a number, and stands for its secret and its owner; whoever asks for entry x brings its ticket and
    its owner. [fp] is the fingerprint. Nothing is assumed of it: entries may share one, so what a collision does is
    part of what is proved. [due] is an entry's deadline. *)
Require Import Base.

Inductive cell_state := Free | Live (f : nat) | Busy | Claimed | Doomed.

(** Who has the slot, and how far it is. *)
Inductive stage :=
| Listed                        (* on the free list *)
| Popped (t e : nat)            (* by a put of e, the cell not written yet *)
| Written (t e : nat)           (* the cell is written, the state not yet *)
| Open                          (* live: whoever wants it wins it first *)
| Won (t x now : nat)           (* for a take of x, at that time *)
| Removing (t : nat)            (* by a sweep or a clear *)
| Claiming (t x now : nat)      (* for a claim of x, not compared yet *)
| Held (t x : nat)              (* claimed: it is being delivered *)
| Emptied (t : nat).            (* to be pushed on the free list *)

(** What became of an entry. *)
Inductive fate := Unborn | Putting (i : nat) | Stored (i : nat) | Delivered (x : nat) | Removed.

Record slots := Slots {
  st : nat -> cell_state; cell : nat -> option nat; by_ : nat -> stage; fates : nat -> fate
}.
Definition set_slot s i a c b := Slots (upd (st s) i a) (upd (cell s) i c) (upd (by_ s) i b) (fates s).
Definition set_fate s e f := Slots (st s) (cell s) (by_ s) (upd (fates s) e f).

Inductive slabel :=
| P1 (e : nat) | P2 | P3 (e : nat) | T2 | T2none | T3 | T3no | T4 (x e : nat) | T4remove (e : nat) | T4push
| W2 | U1 | U2 (e : nat) | U2doomed | U3.

Section Slot.
Variables (fp due : nat -> nat).

Inductive sstep (s : slots) (t i : nat) : slabel -> slots -> Prop :=
(* put *)
| p1 e : by_ s i = Listed -> fates s e = Unborn ->
    sstep s t i (P1 e) (set_fate (set_slot s i (st s i) (cell s i) (Popped t e)) e (Putting i))
| p2 e : by_ s i = Popped t e ->
    sstep s t i P2 (set_slot s i (st s i) (Some e) (Written t e))
| p3 e : by_ s i = Written t e ->
    sstep s t i (P3 e) (set_fate (set_slot s i (Live (fp e)) (cell s i) Open) e (Stored i))
(* take(x), at [now]: the exchange, then the comparison *)
| t2 x now : st s i = Live (fp x) ->
    sstep s t i T2 (set_slot s i Busy (cell s i) (Won t x now))
| t2_none x : st s i <> Live (fp x) ->
    sstep s t i T2none s
| t3_no x now : by_ s i = Won t x now -> cell s i <> Some x ->
    sstep s t i T3no (set_slot s i (Live (fp x)) (cell s i) Open)
| t4 x now e : by_ s i = Won t x now -> cell s i = Some e -> e = x -> (now < due e)%nat ->
    sstep s t i (T4 x e) (set_fate (set_slot s i Free None (Emptied t)) e (Delivered x))
| t4_expired x now e : by_ s i = Won t x now -> cell s i = Some e -> e = x -> (due e <= now)%nat ->
    sstep s t i (T4remove e) (set_fate (set_slot s i Free None (Emptied t)) e Removed)
| t4_push : by_ s i = Emptied t ->
    sstep s t i T4push (set_slot s i (st s i) (cell s i) Listed)
(* a sweep or a clear: it has read some fingerprint, and exchanges it *)
| w2 f : st s i = Live f ->
    sstep s t i W2 (set_slot s i Busy (cell s i) (Removing t))
| t4_remove e : by_ s i = Removing t -> cell s i = Some e ->
    sstep s t i (T4remove e) (set_fate (set_slot s i Free None (Emptied t)) e Removed)
(* claim(x) *)
| u1 x now : st s i = Live (fp x) ->
    sstep s t i U1 (set_slot s i Claimed (cell s i) (Claiming t x now))
| u_is_it x now : by_ s i = Claiming t x now -> cell s i = Some x -> (now < due x)%nat ->
    sstep s t i T3 (set_slot s i (st s i) (cell s i) (Held t x))
| u_is_not x now : by_ s i = Claiming t x now -> cell s i <> Some x -> st s i = Claimed ->
    sstep s t i (U2 x) (set_slot s i (Live (fp x)) (cell s i) Open)
| u_is_not_doomed x now e : by_ s i = Claiming t x now -> cell s i <> Some x -> st s i = Doomed -> cell s i = Some e ->
    sstep s t i (T4remove e) (set_fate (set_slot s i Free None (Emptied t)) e Removed)
| u_expired x now e : by_ s i = Claiming t x now -> cell s i = Some e -> e = x -> (due e <= now)%nat ->
    sstep s t i (T4remove e) (set_fate (set_slot s i Free None (Emptied t)) e Removed)
(* The claim ends: put back, delivered, or dropped. *)
| u2 x : by_ s i = Held t x -> st s i = Claimed ->
    sstep s t i (U2 x) (set_slot s i (Live (fp x)) (cell s i) Open)
| u2_doomed x : by_ s i = Held t x -> st s i = Doomed ->
    sstep s t i U2doomed s
| u4 x e : by_ s i = Held t x -> cell s i = Some e ->
    sstep s t i (T4 x e) (set_fate (set_slot s i Free None (Emptied t)) e (Delivered x))
| u4_drop x e : by_ s i = Held t x -> cell s i = Some e ->
    sstep s t i (T4remove e) (set_fate (set_slot s i Free None (Emptied t)) e Removed)
(* a clear comes by a claimed slot *)
| u3 : st s i = Claimed ->
    sstep s t i U3 (set_slot s i Doomed (cell s i) (by_ s i)).

Definition sinit : slots := Slots (fun _ => Free) (fun _ => None) (fun _ => Listed) (fun _ => Unborn).

Inductive sreach : slots -> Prop :=
| sreach_init : sreach sinit
| sreach_step s t i l s' : sreach s -> sstep s t i l s' -> sreach s'.

(** * The invariant *)

(** What a slot is, by who has it. *)
Definition slot_ok s i :=
  match by_ s i with
  | Listed | Emptied _ => st s i = Free /\ cell s i = None
  | Popped _ e => st s i = Free /\ cell s i = None /\ fates s e = Putting i
  | Written _ e => st s i = Free /\ cell s i = Some e /\ fates s e = Putting i
  | Open => exists e, st s i = Live (fp e) /\ cell s i = Some e /\ fates s e = Stored i
  | Won _ x _ => exists e, st s i = Busy /\ cell s i = Some e /\ fates s e = Stored i /\ fp e = fp x
  | Removing _ => exists e, st s i = Busy /\ cell s i = Some e /\ fates s e = Stored i
  | Claiming _ x _ =>
      exists e, (st s i = Claimed \/ st s i = Doomed) /\ cell s i = Some e /\ fates s e = Stored i /\ fp e = fp x
  | Held _ x => (st s i = Claimed \/ st s i = Doomed) /\ cell s i = Some x /\ fates s x = Stored i
  end.

(** Where an entry is, by its fate. *)
Definition entry_ok s e :=
  match fates s e with
  | Putting i => exists t, by_ s i = Popped t e \/ by_ s i = Written t e
  | Stored i => cell s i = Some e /\ st s i <> Free
  | Delivered x => x = e
  | _ => True
  end.

Definition SInv s := (forall i, slot_ok s i) /\ (forall e, entry_ok s e).

Ltac here i' i := destruct (Nat.eq_dec i' i) as [-> |]; [rewrite ?upd_same in * | rewrite ?upd_other in * by assumption].
Ltac facts :=
  repeat match goal with
  | H : exists _, _ |- _ => destruct H
  | H : _ /\ _ |- _ => destruct H
  | H : by_ _ _ = _ |- _ => progress rewrite H in *
  end.

Lemma slots_step s t i l s' : SInv s -> sstep s t i l s' -> forall i', slot_ok s' i'.
Proof.
  intros (SO & EO) H i'. pose proof (SO i') as A. pose proof (SO i) as B. clear SO EO. unfold slot_ok in *.
  inversion H; subst; clear H; cbn in *; trivial; here i' i; facts; cbn in *; trivial; try congruence.
  all: try (destruct (by_ s i') eqn:E'); try (destruct (by_ s i) eqn:E); facts; cbn in *; try congruence.
  all: try match goal with
    | C : cell ?s0 ?j = Some ?e |- exists _, _ /\ cell ?s0 ?j = Some _ /\ _ => exists e
    | |- exists e0, _ = Live (fp e0) /\ Some ?e = Some e0 /\ _ => exists e
    end.
  all: unfold upd; repeat match goal with |- context [Nat.eqb ?a ?b] => destruct (Nat.eqb_spec a b); subst end.
  all: repeat match goal with |- _ /\ _ => split end; auto; try congruence; try (left; congruence); try (right; congruence).
  all: intuition congruence.
Qed.

Lemma entries_step s t i l s' : SInv s -> sstep s t i l s' -> forall e', entry_ok s' e'.
Proof.
  intros (SO & EO) H e'. pose proof (EO e') as A. pose proof (SO i) as B. clear SO EO. unfold slot_ok, entry_ok in *.
  inversion H; subst; clear H; cbn in *; trivial.
  all: try (destruct (by_ s i) eqn:E); facts; cbn in *; try congruence.
  all: unfold upd; repeat match goal with |- context [Nat.eqb ?a ?b] => destruct (Nat.eqb_spec a b); subst; cbn in * end; trivial.
  all: try (destruct (fates s e') eqn:F; trivial); cbn in *.
  all: repeat match goal with |- context [Nat.eqb ?a ?b] => destruct (Nat.eqb_spec a b); subst; cbn in * end; trivial.
  all: facts; try solve [repeat match goal with |- _ /\ _ => split end; intuition (eauto; congruence)].
  destruct H3 as [H3 | H3]; [| discriminate]. exists t. right. congruence.
Qed.

Theorem sinv_reach s : sreach s -> SInv s.
Proof.
  induction 1 as [| s t i l s' R IH H].
  - split; intro; cbn; auto.
  - split; [eapply slots_step | eapply entries_step]; eassumption.
Qed.

(** * The promises *)

(** Promise 7. An entry is delivered to one that asked for it, exactly, and by the slot that it was in; whatever
    else has the same fingerprint. *)
Theorem delivered_to_its_owner s t i x e s' :
  sreach s -> sstep s t i (T4 x e) s' -> x = e /\ fates s e = Stored i /\ fates s' e = Delivered x.
Proof.
  intros R H. destruct (sinv_reach s R) as (SO & _). specialize (SO i). unfold slot_ok in SO.
  inversion H; subst; match goal with B : by_ _ _ = _ |- _ => rewrite B in SO end; cbn; rewrite upd_same; facts; repeat split; congruence.
Qed.

(** Promise 7. Once: what is delivered or removed stays so, and no step delivers or removes it again. *)
Theorem the_end_is_final s t i l s' e :
  sreach s -> sstep s t i l s' -> (fates s e = Removed \/ exists x, fates s e = Delivered x) ->
  fates s' e = fates s e /\ (forall x, l <> T4 x e) /\ l <> T4remove e.
Proof.
  intros R H F. destruct (sinv_reach s R) as (SO & _). specialize (SO i). unfold slot_ok in SO.
  assert (forall j, fates s e <> Stored j) as NS by (intros j Hj; destruct F as [F | (x & F)]; congruence).
  assert (forall j, fates s e <> Putting j) as NP by (intros j Hj; destruct F as [F | (x & F)]; congruence).
  assert (fates s e <> Unborn) as NU by (intros Hj; destruct F as [F | (x & F)]; congruence).
  inversion H; subst; cbn; try (split; [reflexivity | split; [intro |]; discriminate]).
  all: match goal with B : by_ _ _ = _ |- _ => rewrite B in SO | _ => idtac end; facts.
  all: try (destruct (Nat.eq_dec e e0) as [<- |]; [exfalso; congruence |]).
  all: try (destruct (Nat.eq_dec e x) as [<- |]; [exfalso; congruence |]).
  all: rewrite ?upd_other by congruence.
  all: split; [reflexivity | split; [intro |]; congruence].
Qed.

(** Promise 8. Nothing is lost: an entry that was put is in its slot, whatever is being done to it, until a step
    delivers or removes it. *)
Theorem nothing_is_lost s t i l s' e j :
  sreach s -> sstep s t i l s' -> fates s e = Stored j ->
  cell s j = Some e /\ (fates s' e = Stored j \/ i = j /\ ((exists x, l = T4 x e) \/ l = T4remove e)).
Proof.
  intros R H F. destruct (sinv_reach s R) as (SO & EO). pose proof (SO i) as A. pose proof (EO e) as B.
  unfold slot_ok, entry_ok in *. rewrite F in B. destruct B as (C & _). split; [assumption |].
  inversion H; subst; cbn; auto.
  all: match goal with B : by_ _ _ = _ |- _ => rewrite B in A | _ => idtac end; facts.
  all: try (destruct (Nat.eq_dec e e0) as [<- |]; [| rewrite upd_other by assumption; now left]); try congruence.
  all: try (destruct (Nat.eq_dec e x) as [<- |]; [| rewrite upd_other by assumption; now left]); try congruence.
  all: right; split; [congruence | eauto].
Qed.

(** Promise 8. An entry has one place. *)
Theorem one_place s e i j : sreach s -> cell s i = Some e -> cell s j = Some e -> i = j.
Proof.
  intros R A B. destruct (sinv_reach s R) as (SO & _). pose proof (SO i) as Si. pose proof (SO j) as Sj.
  unfold slot_ok in *. destruct (by_ s i), (by_ s j); facts; congruence.
Qed.

(** Promise 7. One that has the fingerprint and is not the owner changes nothing: the slot is as it was. *)
Theorem a_stranger_changes_nothing s t i x now :
  sreach s -> by_ s i = Won t x now -> cell s i <> Some x ->
  exists e, cell s i = Some e /\ fates s e = Stored i /\
    sstep s t i T3no (set_slot s i (Live (fp e)) (cell s i) Open).
Proof.
  intros R B N. destruct (sinv_reach s R) as (SO & _). specialize (SO i). unfold slot_ok in SO. rewrite B in SO.
  destruct SO as (e & _ & C & F & E). exists e. repeat split; trivial. rewrite E. now apply t3_no with now.
Qed.

(** Promise 9. Nothing is delivered by a take whose time is the deadline or later. *)
Theorem expired_is_not_taken s t i x e s' now :
  sstep s t i (T4 x e) s' -> by_ s i = Won t x now -> (now < due e)%nat.
Proof. intros H B. inversion H; subst; congruence. Qed.

(** Promise 8. Once doomed, an entry goes live no more: it is in its claimer's hands until that removes it or
    delivers it. *)
Theorem doomed_stays_doomed s t i l s' j :
  sreach s -> sstep s t i l s' -> st s j = Doomed -> st s' j = Doomed \/ i = j /\ st s' j = Free.
Proof.
  intros R H D. destruct (sinv_reach s R) as (SO & _). specialize (SO i). unfold slot_ok in SO.
  destruct (Nat.eq_dec j i) as [-> |].
  - inversion H; subst; cbn; rewrite ?upd_same; auto; exfalso.
    all: try congruence; match goal with B : by_ _ _ = _ |- _ => rewrite B in SO end; facts; congruence.
  - left. inversion H; subst; cbn; rewrite ?upd_other by assumption; assumption.
Qed.

(** The cell is written and read by one thread at a time: a step that touches a slot that is not open is a step
    of the thread that has it, but for dooming it. *)
Definition owner b :=
  match b with
  | Listed | Open => None
  | Popped t _ | Written t _ | Won t _ _ | Removing t | Claiming t _ _ | Held t _ | Emptied t => Some t
  end.

Theorem alone s t i l s' u :
  sreach s -> sstep s t i l s' -> owner (by_ s i) = Some u -> l = U3 \/ l = T2none \/ t = u.
Proof.
  intros R H O. destruct (sinv_reach s R) as (SO & _). specialize (SO i). unfold slot_ok in SO.
  inversion H; subst; auto; try (match goal with B : by_ _ _ = _ |- _ => rewrite B in O end; cbn in O; right; right; congruence).
  all: destruct (by_ s i); cbn in *; facts; try congruence; try (intuition congruence).
Qed.

End Slot.
