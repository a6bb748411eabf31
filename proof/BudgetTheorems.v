(** The budget's promises, for any number of threads, waiters, requests and shares that room is lent to. The numbers are
    those of the promises in docs/design.md.

    A re-entrant call (promise 6) needs no theorem of its own: a waker is run at S9, with the lock free and nothing
    carried over but a list of wakers. A call that it makes is a call of another thread of this system, whose steps
    come while the waker's thread takes none: one of the schedules that the theorems are about. *)
Require Import Base Budget BudgetInv.

Section Theorems.
Variables (T W : nat) (need : nat -> Z) (Sh : nat) (overflow : Z).
Hypothesis need_nonneg : forall w, 0 <= need w.
Hypothesis overflow_nonneg : 0 <= overflow.

Notation reach := (reach T W need Sh overflow).
Notation step := (step W need Sh overflow).
Notation charged := (charged T W need).
Notation Inv := (Inv T W need Sh overflow).

Ltac cases H := inversion H; subst; clear H; cbn in *.
Ltac known :=
  repeat match goal with
  | E : pcs _ _ = _ |- _ => progress rewrite E in *
  | E : lock _ = _ |- _ => progress rewrite E in *
  end.
Ltac split_and :=
  repeat match goal with H : _ /\ _ |- _ => destruct H end;
  repeat match goal with |- _ /\ _ => split end.

Ltac split_eqb :=
  unfold upd in *;
  repeat match goal with
  | |- context [Nat.eqb ?a ?b] => destruct (Nat.eqb_spec a b); subst; cbn in *
  end.

Lemma inv s : reach s -> Inv s.
Proof. intro R. eapply inv_reach; eassumption. Qed.

(** Promise 1. Every byte of the limit is in the word, in a share, on its way between the two, or charged. *)
Theorem bytes_conserved s :
  reach s -> limit s = room (wd s) + sum (share s) Sh + moving (lock s) + charged s.
Proof. intro R. exact (proj1 (i_bytes _ _ _ _ _ _ (inv s R))). Qed.

(** While the word is not lent, the shares are empty, and it says all there is. *)
Theorem not_lent_is_exact s :
  reach s -> lent (wd s) = false ->
  (forall i, (i < Sh)%nat -> recalled s i = true /\ share s i = 0) /\ limit s = room (wd s) + charged s.
Proof.
  intros R L. destruct (i_lent _ _ _ _ _ _ (inv s R)) as (_ & L2 & L3 & L4).
  assert (E : forall i, (i < Sh)%nat -> recalled s i = true /\ share s i = 0).
  { intros i Hi. destruct (recalled s i) eqn:C; [split; [reflexivity | now apply L2] |].
    rewrite (L3 i Hi C) in L. discriminate. }
  split; [assumption |]. rewrite (bytes_conserved s R), sum_zero by (intros; now apply E).
  enough (moving (lock s) = 0) by lia.
  destruct (lock s) as [[t []] |]; cbn in *; trivial; split_and; congruence.
Qed.

(** A charge is refused only at a value of the word that is not lent: so no share could have satisfied it. *)
Theorem refused_by_all_there_is s t r s' :
  reach s -> step s t (A3 r) s' \/ step s t (A17no r) s' \/ step s t (A18 r) s' ->
  lent (wd s) = false /\ limit s = room (wd s) + charged s /\ forall i, (i < Sh)%nat -> share s i = 0.
Proof.
  intros R H. assert (L : lent (wd s) = false).
  { pose proof (i_lent _ _ _ _ _ _ (inv s R)) as (L1 & _ & _ & L4). pose proof (i_flag _ _ _ _ _ _ (inv s R)) as (FC & _).
    destruct H as [H | [H | H]]; cases H; trivial; [known; tauto |].
    destruct (lent (wd s)); trivial. destruct (L1 eq_refl) as (_ & _ & L & _). congruence. }
  destruct (not_lent_is_exact s R L) as (E & B). repeat split; trivial. intros i Hi. now apply E.
Qed.

(** While the word is lent, everything that is charged is below the overflow: a grant by a share is regular. *)
Theorem lent_is_regular s : reach s -> lent (wd s) = true -> charged s <= limit s - overflow.
Proof.
  intros R L. pose proof (bytes_conserved s R) as B. pose proof (i_ownl _ _ _ _ _ _ (inv s R)) as OL.
  destruct (i_lent _ _ _ _ _ _ (inv s R)) as (L1 & L2 & _ & L4). destruct (L1 L) as (_ & _ & _ & O).
  assert (0 <= sum (share s) Sh) by (apply sum_nonneg; intros; apply L2).
  enough (0 <= moving (lock s)) by lia. unfold OwnLock in OL.
  destruct (lock s) as [[t []] |]; cbn in *; try lia; split_and; lia.
Qed.

(** Exactness. What is charged changes by a grant, by what was asked for, and by a release, by what it had; neither
    lending nor recalling changes it. *)
Definition change l :=
  match l with
  | A4 n | A7 n | A9 n | A13 n | A17 n => n
  | J2c w | J4 w | S3 w => need w
  | R4 n | R5 n | R10 n => - n
  | _ => 0
  end.

Theorem charged_changes s t l s' :
  reach s -> (t < T)%nat -> step s t l s' -> charged s' = charged s + change l.
Proof.
  intros R Ht H. assert (R' : reach s') by (econstructor; eassumption).
  pose proof (inv s R) as I. pose proof (i_own _ _ _ _ _ _ I t) as O. pose proof (i_ownl _ _ _ _ _ _ I) as OL.
  apply bytes_conserved in R, R'. unfold OwnLock in OL. clear I.
  cases H; known; cbn in *; try lia.
  all: try match goal with
    | X : context [sum (upd (share ?s0) ?i ?v) Sh] |- _ =>
        rewrite (sum_change (share s0) (upd (share s0) i v) Sh i) in X
          by first [assumption | tauto | intros; now rewrite upd_other]; rewrite upd_same in X
    end.
  all: try lia.
  all: try match goal with r : after |- _ => destruct r; cbn in *; lia end.
  all: try (destruct (queue s) as [| y ?]; [| destruct (Nat.eqb y w)]; cbn in *; lia).
  all: try (destruct (drains s); cbn in *; lia).
  all: try (destruct c; cbn in *; lia).
Qed.

(** Promise 1. Nothing is charged that does not fit below the limit, wherever the room was. *)
Theorem limit_holds s t l s' :
  reach s -> (t < T)%nat -> step s t l s' -> charged s < charged s' -> charged s' <= limit s'.
Proof.
  intros R Ht H G. pose proof (charged_changes _ _ _ _ R Ht H) as C. assert (P : 0 < change l) by lia. clear C G.
  assert (R' : reach s') by (econstructor; eassumption).
  pose proof (inv s R) as I. pose proof (i_lent _ _ _ _ _ _ (inv s' R')) as (L1 & L2 & _).
  pose proof (i_ownl _ _ _ _ _ _ (inv s' R')) as OL'. unfold OwnLock in OL'. apply bytes_conserved in R'.
  assert (0 <= sum (share s') Sh) by (apply sum_nonneg; intros; apply L2).
  assert (0 <= moving (lock s')).
  { destruct (i_lent _ _ _ _ _ _ (inv s' ltac:(econstructor; eassumption))) as (_ & _ & _ & L4).
    destruct (lock s') as [[? []] |]; cbn in *; try lia; split_and; lia. }
  enough (0 <= room (wd s')) by lia.
  destruct (lent (wd s')) eqn:L; [destruct (L1 eq_refl) as (_ & _ & _ & X); lia |]. clear L1 L2 OL' R'.
  pose proof (i_ownl _ _ _ _ _ _ I) as OL.
  pose proof (i_own _ _ _ _ _ _ I t) as O. pose proof (i_snap _ _ _ _ _ _ I) as S. pose proof (i_flag _ _ _ _ _ _ I) as (_ & F).
  pose proof (i_lent _ _ _ _ _ _ I) as (_ & _ & L3 & _).
  unfold Snap, OwnLock, watched in *. clear I.
  cases H; try lia.
  all: known; cbn in *; unfold admits in *; split_and; try lia; try congruence.
  all: try (rewrite (L3 i) in L; [discriminate | tauto | tauto]).
  match goal with E : queue _ = _ |- _ => rewrite E in * end. cbn in *.
  match goal with X : true = true -> _ |- _ => destruct (S (X eq_refl)) end. lia.
Qed.

(** Promise 2. Nobody overtakes, by whatever way: when a charge is granted beside the queue, all that ever joined have
    gone, but perhaps for one whose wait is over already and that is being unlinked. *)
Theorem nobody_overtakes s t l s' :
  reach s -> step s t l s' ->
  (exists n, l = A4 n \/ l = A7 n \/ l = A9 n \/ l = A13 n \/ l = A17 n) \/ (exists w, l = J4 w \/ l = J2c w) ->
  forall w, In w (order s) -> gone s w = true \/ exists t' e v b, lock s = Some (t', AtS4 w e v b).
Proof.
  intros R H L w Hw. pose proof (inv s R) as I.
  pose proof (i_own _ _ _ _ _ _ I t) as O. pose proof (i_flag _ _ _ _ _ _ I) as (_ & F).
  pose proof (i_lent _ _ _ _ _ _ I) as (L1 & _ & L3 & L4).
  pose proof (i_ending _ _ _ _ _ _ I) as (_ & _ & _ & _ & _ & EL). pose proof (i_queue _ _ _ _ _ _ I) as (_ & QE & _).
  destruct (gone s w) eqn:G; [now left | right].
  assert (Hq : In w (queue s)) by (rewrite QE; now apply in_still). clear QE I. unfold watched in *.
  assert (NL : lent (wd s) = true -> False) by (intro X; destruct (L1 X) as (Q & _); rewrite Q in Hq; destruct Hq).
  assert (NQ : queued (wd s) = false -> exists t' e v b, lock s = Some (t', AtS4 w e v b)).
  { intro Q. rewrite Q in F. destruct (queue s) as [| y q] eqn:E; [destruct Hq |].
    destruct (lock s) as [[t' []] |]; cbn in *; split_and; try (intuition discriminate).
    destruct q as [| z q]; cbn in *; [| intuition discriminate].
    match goal with X : exists _, _ |- _ => destruct X as (q' & E'); injection E' as -> _ end.
    destruct Hq as [-> | []]. do 4 eexists. reflexivity. }
  destruct L as [(n & [-> | [-> | [-> | [-> | ->]]]]) | (x & [-> | ->])]; cases H.
  - apply NQ. rewrite H1 in O. destruct O as (_ & _ & Q & _). exact Q.
  - exfalso. apply NL. rewrite H1 in O. apply (L3 i); tauto.
  - exfalso. now apply NL.
  - exfalso. apply NL. rewrite H1 in O. tauto.
  - apply NQ. match goal with X : admits _ _ |- _ => apply X end.
  - exfalso. known. destruct F as (_ & Q & _). rewrite Q in Hq. destruct Hq.
  - apply NQ. match goal with X : admits _ _ |- _ => apply X end.
Qed.

(** Promise 5. No lost wake-up: whenever the lock is free and no thread is on its way to serve, the head does not fit;
    and nothing is lent, so that nothing that would make it fit is anywhere but in the word. *)
Theorem no_lost_wakeup s w q :
  reach s -> lock s = None -> (forall t, on_way (pcs s t) = false) -> queue s = w :: q ->
  room (wd s) < need w /\ need w <= limit s /\ shut s = false /\ lent (wd s) = false /\
  (forall i, (i < Sh)%nat -> share s i = 0).
Proof.
  intros R L A Q. pose proof (i_head _ _ _ _ _ _ (inv s R)) as K. unfold WakeHead, head_waits in K.
  assert (NL : lent (wd s) = false).
  { destruct (lent (wd s)) eqn:E; trivial. destruct (i_lent _ _ _ _ _ _ (inv s R)) as (L1 & _).
    destruct (L1 E) as (X & _). congruence. }
  destruct (not_lent_is_exact s R NL) as (E & _).
  rewrite L, Q in K. destruct (K eq_refl) as [(B & C & D) | (t & B)]; [| rewrite A in B; discriminate].
  repeat split; trivial. intros i Hi. now apply E.
Qed.

(** Promise 2. Grants from the queue follow the order of joining. *)
Theorem grants_follow_the_order s : reach s -> subseq (grants s) (order s).
Proof. intro R. apply (i_order _ _ _ _ _ _ (inv s R)). Qed.

(** Promises 2 and 3. Who is granted is the first of those that have not gone, and all of its request fits. *)
Theorem the_head_is_granted s t w s' :
  reach s -> step s t (S3 w) s' ->
  need w <= room (wd s) /\
  exists pre post, order s = pre ++ w :: post /\ Forall (fun x => gone s x = true) pre.
Proof.
  intros R H. pose proof (inv s R) as I.
  pose proof (i_snap _ _ _ _ _ _ I) as S. pose proof (i_flag _ _ _ _ _ _ I) as (_ & F). pose proof (i_queue _ _ _ _ _ _ I) as (_ & QE & _).
  unfold Snap, watched in *. cases H. known. match goal with E : queue _ = _ |- _ => rewrite E in * end. cbn in *. destruct F as (F & _). destruct (S (F eq_refl)).
  split; [lia | eapply still_head; symmetry; eassumption].
Qed.

(** Promise 4. An ending is final. *)
Theorem an_ending_is_final s t l s' w e :
  reach s -> step s t l s' -> ending s w = Some e -> ending s' w = Some e.
Proof.
  intros R H E. pose proof (inv s R) as I. pose proof (i_ownl _ _ _ _ _ _ I) as OL.
  pose proof (i_ending _ _ _ _ _ _ I) as (_ & _ & _ & _ & _ & EL). pose proof (i_drains _ _ _ _ _ _ I) as (_ & D).
  specialize (D w). unfold OwnLock in *. clear I.
  cases H; trivial; split_eqb; trivial; try (known; split_and; congruence); try congruence.
  exfalso. destruct D as (D & _). destruct D as (_ & N & _); [match goal with E : drains _ = _ |- _ => rewrite E; now left end | congruence].
Qed.

(** Promise 4. A waiter is granted at most once. *)
Theorem granted_once s : reach s -> NoDup (grants s).
Proof.
  intro R. pose proof (inv s R) as I.
  destruct (i_queue _ _ _ _ _ _ I) as (N & _). destruct (i_order _ _ _ _ _ _ I) as (_ & _ & S).
  revert N. induction S; intro N; [constructor | |]; inversion N; subst.
  - constructor; [| auto]. intro Hx. apply H1. clear - S Hx. induction S; cbn in *; intuition.
  - auto.
Qed.

(** Promise 4. A waker is called at most once. *)
Theorem woken_once s w : reach s -> 0 <= woken s w <= 1.
Proof.
  intro R. assert (0 <= woken s w) as N.
  { induction R as [| s t l s' R IH _ H]; [cbn; lia |]. cases H; trivial. split_eqb; lia. }
  split; [assumption |]. pose proof (i_wakers _ _ _ _ _ _ (inv s R) w) as B.
  pose proof (count_nonneg w (queue s)). pose proof (count_nonneg w (drains s)).
  pose proof (count_nonneg w (batch_lock (lock s))).
  assert (0 <= sum (fun t => count w (batch_pc (pcs s t))) T) by (apply sum_nonneg; intros; apply count_nonneg).
  unfold entered, left in B. destruct (phases s w), (ending s w) as [[] |]; lia.
Qed.

(** Promises 4 and 5. Whose wait was ended by another has been woken, or its waker is in the batch of a thread
    that is about to wake it. *)
Theorem ended_is_woken s w e :
  reach s -> ending s w = Some e -> e <> Left ->
  woken s w = 1 \/ (exists t, In w (batch_pc (pcs s t))) \/ In w (batch_lock (lock s)).
Proof.
  intros R E NL. pose proof (woken_once s w R) as WO. pose proof (inv s R) as I.
  pose proof (i_wakers _ _ _ _ _ _ I w) as B. destruct (i_ending _ _ _ _ _ _ I) as (_ & E2 & _ & EO & _).
  destruct (i_queue _ _ _ _ _ _ I) as (_ & QE & _). destruct (i_drains _ _ _ _ _ _ I) as (_ & D).
  rewrite (count_notin w (queue s)), (count_notin w (drains s)) in B.
  - assert (entered s w = 1) as EN.
    { specialize (EO w). unfold entered, outside in *. destruct (phases s w); trivial; rewrite EO in E by trivial; discriminate. }
    assert (left s w = 0) as L by (unfold left; rewrite E; now destruct e).
    destruct (in_dec Nat.eq_dec w (batch_lock (lock s))) as [Hb | Hb]; [auto |]. rewrite (count_notin _ _ Hb) in B.
    destruct (Z.eq_dec (woken s w) 1); [auto | right; left].
    destruct (sum_pos (fun t => count w (batch_pc (pcs s t))) T) as (t & _ & P).
    + intros. apply count_nonneg.
    + lia.
    + exists t. now apply count_pos_in.
  - intro Hd. apply D in Hd. destruct Hd as (_ & N & _). congruence.
  - rewrite QE. intro Hq. apply in_still in Hq. destruct Hq as (Hw & G). destruct (E2 w Hw G). congruence.
Qed.

(** Exactness on leaving. A waiter that leaves the queue never had bytes. *)
Theorem who_leaves_had_nothing s t w s' :
  reach s -> step s t (L3 w) s' -> ~ In w (grants s) /\ ending s w = None /\ ending s' w = Some Left /\ room (wd s') = room (wd s).
Proof.
  intros R H. pose proof (inv s R) as I. pose proof (i_ownl _ _ _ _ _ _ I) as OL. unfold OwnLock in OL.
  destruct (i_order _ _ _ _ _ _ I) as (G & _). destruct (i_queue _ _ _ _ _ _ I) as (_ & _ & _ & QA).
  destruct (i_ending _ _ _ _ _ _ I) as (_ & _ & E3 & _).
  cases H. known. destruct OL as (_ & P & N). repeat split; trivial; [| now rewrite upd_same].
  intro Hg. apply (E3 w); trivial; [apply QA; unfold alive; now rewrite P | auto].
Qed.

(** One that finds its grant when it leaves has exactly its bytes: a dropped future is about to release them,
    one that gave up has them in its permit. *)
Theorem who_was_granted_has_all s t w s' :
  reach s -> step s t (L2 w Granted) s' ->
  owed need s w = need w /\ owed need s' w = 0 /\
  (lock s' = Some (t, Exit (Release (need w))) /\ held s' = held s
   \/ lock s' = Some (t, Exit Idle) /\ held s' = held s + need w).
Proof.
  intros R H. pose proof (i_ownl _ _ _ _ _ _ (inv s R)) as OL. unfold OwnLock in OL.
  cases H. known. destruct OL as (_ & P). unfold owed. cbn. match goal with E : ending _ _ = _ |- _ => rewrite E end. rewrite P, upd_same. repeat split; trivial.
  destruct h; [left | right]; split; trivial; lia.
Qed.

(** While the limit is never lowered, that is: at every instant. *)
Inductive reach_up : state -> Prop :=
| up_init l : 0 <= l -> reach_up (init l)
| up_step s t l s' : reach_up s -> (t < T)%nat -> step s t l s' -> limit s <= limit s' -> reach_up s'.

Theorem limit_holds_always s : reach_up s -> charged s <= limit s.
Proof.
  intro U. assert (reach s) as R by (induction U; econstructor; eassumption).
  induction U as [l Hl | s t l s' U IH Ht H L].
  - unfold BudgetInv.charged. cbn. rewrite !sum_zero; [lia | reflexivity | reflexivity].
  - assert (reach s) as Rs by (clear - U; induction U; econstructor; eassumption). specialize (IH Rs).
    destruct (Z_lt_dec (charged s) (charged s')); [eapply limit_holds; eassumption | lia].
Qed.

(** Promise 5, for those that wait for a closed budget to be empty. *)
Theorem no_lost_drain s :
  reach s -> lock s = None -> (forall t, on_way (pcs s t) = false) -> shut s = true -> charged s = 0 -> drains s = [].
Proof.
  intros R L A S C. pose proof (i_wdrains _ _ _ _ _ _ (inv s R)) as K. unfold WakeDrains, drains_wait in K.
  assert (NL : lent (wd s) = false).
  { destruct (lent (wd s)) eqn:E; trivial. destruct (i_lent _ _ _ _ _ _ (inv s R)) as (L1 & _).
    destruct (L1 E) as (_ & _ & X & _). congruence. }
  destruct (not_lent_is_exact s R NL) as (_ & B). rewrite L in K.
  destruct (K eq_refl) as [D | (t & D)]; [| rewrite A in D; discriminate].
  destruct (drains s); [reflexivity | exfalso; apply D; [assumption | discriminate | lia]].
Qed.

(** Who is told that the budget is drained is told so by a read at which it is closed and nothing is charged. *)
Theorem drained_is_true s t s' :
  reach s -> step s t S6 s' \/ step s t D3 s' /\ lock s' = Some (t, AtD4) -> shut s = true /\ charged s = 0.
Proof.
  intros R H. pose proof (i_flag _ _ _ _ _ _ (inv s R)) as (_ & F).
  assert (A : shut s = true /\ room (wd s) = limit s).
  { destruct H as [H | (H & E)]; cases H; try congruence; split; trivial. known. tauto. }
  destruct A as (S & E). split; [assumption |].
  assert (NL : lent (wd s) = false).
  { destruct (lent (wd s)) eqn:X; trivial. destruct (i_lent _ _ _ _ _ _ (inv s R)) as (L1 & _).
    destruct (L1 X) as (_ & _ & Y & _). congruence. }
  destruct (not_lent_is_exact s R NL) as (_ & B). lia.
Qed.

(** A refusal as full is decided at a value of the word at which the room is short, or somebody waits: in the queue; or
    joining it, with the lock held; or leaving it as the last, with the lock held, in a call that has not returned
    (that thread stands between L3 and S7, and clears the flag next). *)
Definition between c :=
  match c with
  | AtJ5 _ | AtS2 _ | AtS3 _ _ | AtS5 _ _ _ _ | AtS6 _ _ _ | AtS6d _ _ | AtS7 _ _ _ => true
  | _ => false
  end.

Lemma why_not_admitted s n :
  reach s -> lent (wd s) = false -> closed (wd s) = false -> ~ admits n (wd s) ->
  limit s < charged s + n \/ queue s <> [] \/ exists t' c, lock s = Some (t', c) /\ between c = true.
Proof.
  intros R NL C NA. destruct (not_lent_is_exact s R NL) as (_ & B).
  pose proof (i_flag _ _ _ _ _ _ (inv s R)) as (FC & F). unfold watched, admits in *. rewrite <- FC, C in F.
  destruct (Z_lt_dec (room (wd s)) n); [left; lia | right].
  destruct (queued (wd s)) eqn:Q; [| exfalso; apply NA; repeat split; trivial; lia].
  destruct (queue s) eqn:EQ; [right | left; discriminate].
  pose proof (i_ending _ _ _ _ _ _ (inv s R)) as (_ & _ & _ & _ & _ & EL).
  destruct (lock s) as [[t' c] |]; [exists t', c; split; [reflexivity |] | destruct (drains s); cbn in *; congruence].
  destruct c; trivial; cbn in *; destruct (drains s); cbn in *; split_and; try congruence.
  all: try (intuition congruence).
  all: match goal with E : exists q, queue _ = _ |- _ => destruct E; congruence end.
Qed.

Theorem full_is_true s t s' :
  reach s -> step s t (A3 Full) s' \/ step s t (A18 Full) s' \/ step s t (A17no Full) s' ->
  exists n, (pcs s t = Load n \/ pcs s t = Reread n \/ lock s = Some (t, AtA17 n)) /\
    (limit s < charged s + n \/ queue s <> [] \/ exists t' c, lock s = Some (t', c) /\ between c = true).
Proof.
  intros R H. pose proof (i_lent _ _ _ _ _ _ (inv s R)) as (_ & _ & _ & L4).
  destruct H as [H | [H | H]]; inversion H; subst; exists n; (split; [tauto |]); apply why_not_admitted; trivial.
  - match goal with E : lock _ = _ |- _ => rewrite E in L4 end. tauto.
  - unfold why in *. destruct (closed (wd s)); congruence.
Qed.

(** A refusal as too large names a request above the limit of that moment. *)
Theorem too_large_is_true s t s' :
  step s t (A15 RefusedTooLarge) s' \/ step s t (A18 RefusedTooLarge) s' ->
  exists n, (lock s = Some (t, AtA15 n) \/ pcs s t = Reread n) /\ limit s < n.
Proof. intros [H | H]; inversion H; subst; eauto. Qed.

(** A refusal by the queue's own rules is true when it is said, under the lock. *)
Theorem refusals_of_a_join s t r s' :
  step s t (J2 r) s' ->
  r = RefusedClosed /\ shut s = true \/
  exists w, (lock s = Some (t, AtJ2 w) /\ r = RefusedTooLarge /\ limit s < need w) \/
    (lock s = Some (t, AtJ3 w) /\ r = QueueFull /\ ~ admits (need w) (wd s)).
Proof. intro H. cases H; eauto 8. Qed.

Theorem closed_is_true s t s' :
  reach s -> step s t (A18 RefusedClosed) s' \/ step s t (A17no RefusedClosed) s' -> shut s = true.
Proof.
  intros R H. pose proof (i_flag _ _ _ _ _ _ (inv s R)) as (FC & _).
  destruct H as [H | H]; inversion H; subst; unfold why in *; destruct (closed (wd s)); congruence.
Qed.

End Theorems.
