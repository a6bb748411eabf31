(** What both systems use: maps from numbers, finite sums, counting in lists, and the filters that say what a
    queue holds. Nothing here knows of budgets or slots. *)
Require Export ZArith List Lia Bool Arith PeanoNat.
Export ListNotations.
#[global] Open Scope Z_scope.

(** A map with one value changed. *)
Definition upd {A} (f : nat -> A) (x : nat) (v : A) : nat -> A :=
  fun y => if Nat.eqb y x then v else f y.

Lemma upd_same A (f : nat -> A) x v : upd f x v x = v.
Proof. unfold upd. now rewrite Nat.eqb_refl. Qed.

Lemma upd_other A (f : nat -> A) x v y : y <> x -> upd f x v y = f y.
Proof. intro H. unfold upd. apply Nat.eqb_neq in H. now rewrite H. Qed.

(** Splits every [upd] in sight into its two cases. *)
Ltac split_upd :=
  repeat match goal with
  | H : context [upd ?f ?x ?v ?y] |- _ =>
      first [ rewrite (upd_same _ f x v) in H
            | rewrite (upd_other _ f x v y) in H by congruence
            | destruct (Nat.eq_dec y x);
              [ subst; rewrite ?upd_same in * | rewrite (upd_other _ f x v y) in * by assumption ] ]
  | |- context [upd ?f ?x ?v ?y] =>
      first [ rewrite (upd_same _ f x v)
            | rewrite (upd_other _ f x v y) by congruence
            | destruct (Nat.eq_dec y x);
              [ subst; rewrite ?upd_same in * | rewrite (upd_other _ f x v y) in * by assumption ] ]
  end.

(** * Finite sums *)

Fixpoint sum (f : nat -> Z) (n : nat) : Z :=
  match n with O => 0 | S k => sum f k + f k end.

Lemma sum_ext f g n : (forall i, (i < n)%nat -> f i = g i) -> sum f n = sum g n.
Proof.
  induction n; intro H; [reflexivity | cbn].
  rewrite IHn by (intros; apply H; lia). now rewrite H by lia.
Qed.

(** One term changes. *)
Lemma sum_change f g n i :
  (i < n)%nat -> (forall j, j <> i -> g j = f j) -> sum g n = sum f n - f i + g i.
Proof.
  induction n; intros Hi H; [lia | cbn].
  destruct (Nat.eq_dec i n) as [-> | Hn].
  - rewrite (sum_ext g f n) by (intros; apply H; lia). lia.
  - rewrite IHn, (H n) by (auto; lia). lia.
Qed.

Lemma sum_upd A (g : A -> Z) f n i v :
  (i < n)%nat ->
  sum (fun j => g (upd f i v j)) n = sum (fun j => g (f j)) n - g (f i) + g v.
Proof.
  intro Hi.
  rewrite (sum_change (fun j => g (f j)) (fun j => g (upd f i v j)) n i Hi).
  - now rewrite upd_same.
  - intros. now rewrite upd_other.
Qed.

Lemma sum_nonneg f n : (forall i, (i < n)%nat -> 0 <= f i) -> 0 <= sum f n.
Proof.
  induction n; intro H; cbn; [lia |].
  assert (0 <= f n) by (apply H; lia). assert (0 <= sum f n) by (apply IHn; intros; apply H; lia). lia.
Qed.

Lemma sum_term f n i : (forall j, (j < n)%nat -> 0 <= f j) -> (i < n)%nat -> f i <= sum f n.
Proof.
  induction n; intros H Hi; cbn; [lia |].
  assert (0 <= f n) by (apply H; lia).
  assert (0 <= sum f n) by (apply sum_nonneg; intros; apply H; lia).
  destruct (Nat.eq_dec i n) as [-> | ]; [lia |].
  assert (f i <= sum f n) by (apply IHn; [intros; apply H; lia | lia]). lia.
Qed.

Lemma sum_zero f n : (forall i, (i < n)%nat -> f i = 0) -> sum f n = 0.
Proof. induction n; intro H; cbn; [reflexivity | rewrite IHn, H by (intros; try apply H; lia); reflexivity]. Qed.

Lemma sum_pos f n :
  (forall j, (j < n)%nat -> 0 <= f j) -> 0 < sum f n -> exists i, (i < n)%nat /\ 0 < f i.
Proof.
  induction n; intros H Hs; cbn in Hs; [lia |].
  destruct (Z_lt_dec 0 (f n)); [exists n; split; [lia | assumption] |].
  assert (0 <= f n) by (apply H; lia).
  destruct IHn as (i & Hi & Hf); [intros; apply H; lia | lia | exists i; split; [lia | assumption]].
Qed.

(** * Counting *)

Fixpoint count (x : nat) (l : list nat) : Z :=
  match l with [] => 0 | y :: r => (if Nat.eqb x y then 1 else 0) + count x r end.

Lemma count_nonneg x l : 0 <= count x l.
Proof. induction l; cbn; [lia | destruct (Nat.eqb x a); lia]. Qed.

Lemma count_app x l m : count x (l ++ m) = count x l + count x m.
Proof. induction l; cbn; [reflexivity | rewrite IHl; lia]. Qed.

Lemma count_notin x l : ~ In x l -> count x l = 0.
Proof.
  induction l; cbn; [reflexivity |]. intro H. destruct (Nat.eqb_spec x a); [subst; tauto |].
  rewrite IHl; tauto.
Qed.

Lemma count_in x l : In x l -> 1 <= count x l.
Proof.
  induction l as [| a l IH]; cbn; [tauto |]. pose proof (count_nonneg x l).
  intros [-> | H1]; [rewrite Nat.eqb_refl; lia | specialize (IH H1); destruct (Nat.eqb x a); lia].
Qed.

Lemma count_pos_in x l : 0 < count x l -> In x l.
Proof. intro H. destruct (in_dec Nat.eq_dec x l); [assumption | rewrite count_notin in H by assumption; lia]. Qed.

Lemma count_nodup x l : NoDup l -> In x l -> count x l = 1.
Proof.
  induction 1; cbn; [tauto |]. intros [-> | Hin].
  - rewrite Nat.eqb_refl, count_notin by assumption. reflexivity.
  - destruct (Nat.eqb_spec x x0); [subst; tauto | rewrite IHNoDup by assumption; reflexivity].
Qed.

Definition del := remove Nat.eq_dec.

Lemma count_del_same x l : count x (del x l) = 0.
Proof. apply count_notin. apply remove_In. Qed.

Lemma count_del_other x y l : x <> y -> count x (del y l) = count x l.
Proof.
  intro H. induction l as [| a l IH]; cbn; [reflexivity |].
  destruct (Nat.eq_dec y a); cbn; [| now rewrite IH].
  subst. rewrite IH. destruct (Nat.eqb_spec x a); [congruence | reflexivity].
Qed.

Lemma in_del x y l : In x (del y l) <-> In x l /\ x <> y.
Proof. split; [apply in_remove | intros []; now apply in_in_remove]. Qed.

Lemma nodup_del x l : NoDup l -> NoDup (del x l).
Proof.
  induction 1 as [| a l Hn _ IH]; cbn; [constructor |].
  destruct (Nat.eq_dec x a); [assumption |]. constructor; [rewrite in_del; tauto | assumption].
Qed.

Lemma nodup_snoc x (l : list nat) : NoDup l -> ~ In x l -> NoDup (l ++ [x]).
Proof.
  intros Hl Hx. apply NoDup_rev in Hl. rewrite <- (rev_involutive (l ++ [x])). apply NoDup_rev.
  rewrite rev_app_distr. cbn. constructor; [rewrite <- in_rev; assumption | assumption].
Qed.

Lemma del_notin x l : ~ In x l -> del x l = l.
Proof. apply notin_remove. Qed.

(** * Those of a list that are still there *)

Definition still (gone : nat -> bool) (l : list nat) := filter (fun x => negb (gone x)) l.

Lemma in_still g l x : In x (still g l) <-> In x l /\ g x = false.
Proof. unfold still. rewrite filter_In. now rewrite negb_true_iff. Qed.

Lemma still_app g l m : still g (l ++ m) = still g l ++ still g m.
Proof. apply filter_app. Qed.

Lemma still_gone g l x : still (upd g x true) l = del x (still g l).
Proof.
  induction l as [| a l IH]; cbn; [reflexivity |]. unfold still in *. rewrite IH.
  unfold upd at 1. destruct (Nat.eqb_spec a x); cbn.
  - subst. destruct (negb (g x)); cbn; [destruct (Nat.eq_dec x x); congruence | reflexivity].
  - destruct (negb (g a)); cbn; [| reflexivity]. destruct (Nat.eq_dec x a); congruence.
Qed.

Lemma nodup_still g l : NoDup l -> NoDup (still g l).
Proof. apply NoDup_filter. Qed.

(** What stands before the first that is still there is gone. *)
Lemma still_head g l x r :
  still g l = x :: r -> exists pre post, l = pre ++ x :: post /\ Forall (fun y => g y = true) pre.
Proof.
  induction l as [| a l IH]; cbn; [discriminate |].
  destruct (g a) eqn:E; cbn; intro H.
  - destruct (IH H) as (pre & post & -> & F). exists (a :: pre), post. split; [reflexivity | now constructor].
  - injection H as -> _. exists [], l. split; [reflexivity | constructor].
Qed.

Lemma still_nil g l : still g l = [] -> Forall (fun y => g y = true) l.
Proof.
  induction l as [| a l IH]; cbn; [constructor |]. destruct (g a) eqn:E; cbn; intro H; [| discriminate].
  constructor; auto.
Qed.

Lemma nodup_split (x : nat) a : forall b c d,
  NoDup (a ++ x :: b) -> a ++ x :: b = c ++ x :: d -> a = c /\ b = d.
Proof.
  induction a as [| y a IH]; intros b c d N E; destruct c as [| z c]; cbn in *.
  - injection E as ->. now split.
  - injection E as -> ->. exfalso. inversion N as [| ? ? Hn _]. apply Hn, in_elt.
  - injection E as -> <-. exfalso. inversion N as [| ? ? Hn _]. apply Hn, in_elt.
  - injection E as -> E. inversion N as [| ? ? _ N']. destruct (IH _ _ _ N' E) as [-> ->]. now split.
Qed.
