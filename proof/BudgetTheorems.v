(** The budget's promises, for any number of threads, waiters and requests. The numbers are those of the promises
    in docs/design.md.

    A re-entrant call (promise 6) needs no theorem of its own: a waker is run at S8, with the lock free and nothing
    carried over but a list of wakers. A call that it makes is a call of another thread of this system, whose steps
    come while the waker's thread takes none: one of the schedules that the theorems are about. *)
Require Import Base Budget BudgetInv.

Section Theorems.
Variables (T W : nat) (need : nat -> Z).
Hypothesis need_nonneg : forall w, 0 <= need w.

Notation reach := (reach T W need).
Notation step := (step W need).
Notation charged := (charged T W need).

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

(** Promise 1. Every byte of the limit is room or charged, at every instant. *)
Theorem bytes_conserved s : reach s -> limit s = room (wd s) + charged s.
Proof. intro R. exact (proj1 (i_bytes _ _ _ _ (inv_reach _ _ _ need_nonneg _ R))). Qed.

(** Exactness. What is charged changes by a grant, by what was asked for, and by a release, by what it had; by
    nothing else: no way of leaving, ending, resizing or closing changes it. *)
Definition change l :=
  match l with C3 n => n | J2c w | J4 w | S3 w => need w | R1 n => - n | _ => 0 end.

Theorem charged_changes s t l s' :
  reach s -> (t < T)%nat -> step s t l s' -> charged s' = charged s + change l.
Proof.
  intros R Ht H. assert (R' : reach s') by (econstructor; eassumption).
  apply bytes_conserved in R, R'. cases H; cbn in *; try lia.
Qed.

(** Promise 1. Nothing is charged that does not fit below the limit. *)
Theorem limit_holds s t l s' :
  reach s -> (t < T)%nat -> step s t l s' -> charged s < charged s' -> charged s' <= limit s'.
Proof.
  intros R Ht H G. pose proof (charged_changes _ _ _ _ R Ht H) as C. assert (P : 0 < change l) by lia. clear C G.
  assert (R' : reach s') by (econstructor; eassumption).
  apply bytes_conserved in R'. pose proof (inv_reach _ _ _ need_nonneg _ R) as I. rewrite R'.
  enough (0 <= room (wd s')) by lia. clear R' R.
  pose proof (i_own _ _ _ _ I t) as O. pose proof (i_snap _ _ _ _ I) as S. pose proof (i_flag _ _ _ _ I) as (_ & F).
  unfold Snap, admits, watched in *. clear I.
  cases H; try lia.
  - known. lia.
  - known. lia.
  - (* J2c *) match goal with X : admits _ _ |- _ => destruct X as (_ & _ & X); lia | _ => lia end.
  - known. cbn in *. destruct F as (F & _). destruct (S F). lia.
  - known. cbn in *. match goal with E : queue _ = _ |- _ => rewrite E in * end. destruct F as (F & _).
    destruct (S (F eq_refl)). lia.
Qed.

(** While the limit is never lowered, that is: at every instant. *)
Inductive reach_up : state -> Prop :=
| up_init l : 0 <= l -> reach_up (init l)
| up_step s t l s' : reach_up s -> (t < T)%nat -> step s t l s' -> limit s <= limit s' -> reach_up s'.

Theorem limit_holds_always s : reach_up s -> charged s <= limit s.
Proof.
  intro U. assert (reach s) as R by (induction U; econstructor; eassumption).
  induction U as [l Hl | s t l s' U IH Ht H L].
  - unfold charged. cbn. rewrite !sum_zero; [lia | reflexivity | reflexivity].
  - assert (reach s) as Rs by (clear - U; induction U; econstructor; eassumption). specialize (IH Rs).
    destruct (Z_lt_dec (charged s) (charged s')); [eapply limit_holds; eassumption | lia].
Qed.

(** Promise 2. Grants from the queue follow the order of joining. *)
Theorem grants_follow_the_order s : reach s -> subseq (grants s) (order s).
Proof. intro R. apply (i_order _ _ _ _ (inv_reach _ _ _ need_nonneg _ R)). Qed.

(** Promises 2 and 3. Who is granted is the first of those that have not gone, and all of its request fits. *)
Theorem the_head_is_granted s t w s' :
  reach s -> step s t (S3 w) s' ->
  need w <= room (wd s) /\
  exists pre post, order s = pre ++ w :: post /\ Forall (fun x => gone s x = true) pre.
Proof.
  intros R H. pose proof (inv_reach _ _ _ need_nonneg _ R) as I.
  pose proof (i_snap _ _ _ _ I) as S. pose proof (i_flag _ _ _ _ I) as (_ & F). pose proof (i_queue _ _ _ _ I) as (_ & QE & _).
  unfold Snap, watched in *. cases H. known. match goal with E : queue _ = _ |- _ => rewrite E in * end. cbn in *. destruct F as (F & _). destruct (S (F eq_refl)).
  split; [lia | eapply still_head; symmetry; eassumption].
Qed.

(** Promise 2. Nobody overtakes: at a charge or a grant beside the queue, all that ever joined have gone, but
    perhaps for one whose wait is over already and that is being unlinked. *)
Theorem nobody_overtakes s t l s' :
  reach s -> step s t l s' -> (exists n, l = C3 n) \/ (exists w, l = J4 w \/ l = J2c w) ->
  forall w, In w (order s) -> gone s w = true \/ exists t' e v b, lock s = Some (t', AtS4 w e v b).
Proof.
  intros R H L w Hw. pose proof (inv_reach _ _ _ need_nonneg _ R) as I.
  pose proof (i_own _ _ _ _ I t) as O. pose proof (i_flag _ _ _ _ I) as (_ & F).
  pose proof (i_ending _ _ _ _ I) as (_ & _ & _ & _ & _ & EL). pose proof (i_queue _ _ _ _ I) as (_ & QE & _).
  destruct (gone s w) eqn:G; [now left | right].
  assert (In w (queue s)) as Hq by (rewrite QE; now apply in_still). clear QE. unfold watched, admits in *.
  destruct L as [(n & ->) | (x & [-> | ->])]; cases H.
  - known. destruct O as (_ & Q & _). rewrite Q in F.
    destruct (queue s) as [| y q] eqn:E; [destruct Hq |].
    destruct (lock s) as [[t' []] |]; cbn in *; split_and; try (intuition discriminate).
    destruct q as [| z q]; cbn in *; [| intuition discriminate].
    match goal with X : exists _, _ |- _ => destruct X as (q' & E'); injection E' as -> _ end.
    destruct Hq as [-> | []]. do 4 eexists. reflexivity.
  - known. destruct F as (_ & Q & _). rewrite Q in Hq. destruct Hq.
  - known. match goal with X : admits _ _ |- _ => destruct X as (X & _); rewrite X in F end.
    destruct (queue s); [destruct Hq | discriminate].
Qed.

(** Promise 4. An ending is final. *)
Theorem an_ending_is_final s t l s' w e :
  reach s -> step s t l s' -> ending s w = Some e -> ending s' w = Some e.
Proof.
  intros R H E. pose proof (inv_reach _ _ _ need_nonneg _ R) as I. pose proof (i_ownl _ _ _ _ I) as OL.
  pose proof (i_ending _ _ _ _ I) as (_ & _ & _ & _ & _ & EL). pose proof (i_drains _ _ _ _ I) as (_ & D).
  specialize (D w). unfold OwnLock in *. clear I.
  cases H; trivial; split_eqb; trivial; try (known; split_and; congruence); try congruence.
  exfalso. destruct D as (D & _). destruct D as (_ & N & _); [match goal with E : drains _ = _ |- _ => rewrite E; now left end | congruence].
Qed.

(** Promise 4. A waiter is granted at most once. *)
Theorem granted_once s : reach s -> NoDup (grants s).
Proof.
  intro R. pose proof (inv_reach _ _ _ need_nonneg _ R) as I.
  destruct (i_queue _ _ _ _ I) as (N & _). destruct (i_order _ _ _ _ I) as (_ & _ & S).
  revert N. induction S; intro N; [constructor | |]; inversion N; subst.
  - constructor; [| auto]. intro Hx. apply H1. clear - S Hx. induction S; cbn in *; intuition.
  - auto.
Qed.

(** Promise 4. A waker is called at most once. *)
Theorem woken_once s w : reach s -> 0 <= woken s w <= 1.
Proof.
  intro R. assert (0 <= woken s w) as N.
  { induction R as [| s t l s' R IH _ H]; [cbn; lia |]. cases H; trivial. split_eqb; lia. }
  split; [assumption |]. pose proof (i_wakers _ _ _ _ (inv_reach _ _ _ need_nonneg _ R) w) as B.
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
  intros R E NL. pose proof (woken_once s w R) as WO. pose proof (inv_reach _ _ _ need_nonneg _ R) as I.
  pose proof (i_wakers _ _ _ _ I w) as B. destruct (i_ending _ _ _ _ I) as (_ & E2 & _ & EO & _).
  destruct (i_queue _ _ _ _ I) as (_ & QE & _). destruct (i_drains _ _ _ _ I) as (_ & D).
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

(** Promise 5. No lost wake-up: whenever the lock is free and no thread is on its way to serve, the head does not
    fit; nor is it one that closing or the limit would end. *)
Theorem no_lost_wakeup s w q :
  reach s -> lock s = None -> (forall t, on_way (pcs s t) = false) -> queue s = w :: q ->
  room (wd s) < need w /\ need w <= limit s /\ shut s = false.
Proof.
  intros R L N Q. pose proof (i_head _ _ _ _ (inv_reach _ _ _ need_nonneg _ R)) as K. unfold WakeHead, head_waits in K.
  rewrite L, Q in K. destruct (K eq_refl) as [(A & B & C) | (t & A)]; [tauto | rewrite N in A; discriminate].
Qed.

(** The same for those that wait for a closed budget to be empty. *)
Theorem no_lost_drain s :
  reach s -> lock s = None -> (forall t, on_way (pcs s t) = false) -> shut s = true -> charged s = 0 -> drains s = [].
Proof.
  intros R L N S C. pose proof (bytes_conserved s R) as B.
  pose proof (i_wdrains _ _ _ _ (inv_reach _ _ _ need_nonneg _ R)) as K. unfold WakeDrains, drains_wait in K. rewrite L in K.
  destruct (K eq_refl) as [A | (t & A)]; [| rewrite N in A; discriminate].
  destruct (drains s); [reflexivity | exfalso; apply A; [assumption | discriminate | lia]].
Qed.

(** Exactness on leaving. A waiter that leaves the queue never had bytes. *)
Theorem who_leaves_had_nothing s t w s' :
  reach s -> step s t (L3 w) s' -> ~ In w (grants s) /\ ending s w = None /\ ending s' w = Some Left /\ room (wd s') = room (wd s).
Proof.
  intros R H. pose proof (inv_reach _ _ _ need_nonneg _ R) as I. pose proof (i_ownl _ _ _ _ I) as OL. unfold OwnLock in OL.
  destruct (i_order _ _ _ _ I) as (G & _). destruct (i_queue _ _ _ _ I) as (_ & _ & _ & QA).
  destruct (i_ending _ _ _ _ I) as (_ & _ & E3 & _).
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
  intros R H. pose proof (i_ownl _ _ _ _ (inv_reach _ _ _ need_nonneg _ R)) as OL. unfold OwnLock in OL.
  cases H. known. destruct OL as (_ & P). unfold owed. cbn. match goal with E : ending _ _ = _ |- _ => rewrite E end. rewrite P, upd_same. repeat split; trivial.
  destruct h; [left | right]; split; trivial; lia.
Qed.

(** A refusal as full is said only at a state in which the room is short, or somebody waits: in the queue; or
    joining it, with the lock held; or leaving it as the last, with the lock held, in a call that has not returned
    (that thread stands between L3 and S6, and clears the flag next). *)
Definition between c :=
  match c with
  | AtJ4 _ _ | AtJ5 _ | AtS2 _ | AtS3 _ _ | AtS5 _ _ _ _ | AtS6 _ _ _ | AtS6c _ _ _ => true
  | _ => false
  end.

Theorem full_is_true s t s' :
  reach s -> step s t (C2 Full) s' ->
  exists n, pcs s t = Load n /\
    (limit s < charged s + n \/ queue s <> [] \/ exists t' c, lock s = Some (t', c) /\ between c = true).
Proof.
  intros R H. pose proof (bytes_conserved s R) as B.
  pose proof (i_flag _ _ _ _ (inv_reach _ _ _ need_nonneg _ R)) as (FC & F). unfold watched in F.
  inversion H; subst. exists n. split; [assumption |]. unfold why, admits in *.
  destruct (closed (wd s)) eqn:C; [discriminate |]. rewrite <- FC in F.
  destruct (Z_lt_dec (room (wd s)) n); [left; lia | right].
  destruct (queued (wd s)) eqn:Q; [| exfalso; apply H2; repeat split; trivial; lia].
  destruct (queue s) eqn:EQ; [right | left; discriminate].
  pose proof (i_ending _ _ _ _ (inv_reach _ _ _ need_nonneg _ R)) as (_ & _ & _ & _ & _ & EL).
  destruct (lock s) as [[t' c] |]; [exists t', c; split; [reflexivity |] | destruct (drains s); cbn in *; congruence].
  destruct c; trivial; cbn in *; destruct (drains s); cbn in *; split_and; try congruence.
  all: try (intuition congruence).
  all: match goal with E : exists q, queue _ = _ |- _ => destruct E; congruence end.
Qed.

(** A refusal by the queue's own rules is true when it is said, under the lock. *)
Theorem refusals_of_a_join s t r s' :
  step s t (J2 r) s' ->
  r = RefusedClosed /\ shut s = true \/
  exists w, lock s = Some (t, AtJ2 w) /\
    (r = RefusedTooLarge /\ limit s < need w \/ r = QueueFull /\ ~ admits (need w) (wd s)).
Proof. intro H. cases H; eauto 7. Qed.

Theorem closed_is_true s t s' : reach s -> step s t (C2 RefusedClosed) s' -> shut s = true.
Proof.
  intros R H. pose proof (i_flag _ _ _ _ (inv_reach _ _ _ need_nonneg _ R)) as (FC & _).
  inversion H; subst. unfold why in *. destruct (closed (wd s)); congruence.
Qed.

End Theorems.
