(** The bounds over deadlines, and sweeps of them: any number of slots, blocks, segments and shards, of levels, and of
    threads that put, take, claim, renew, put back, clear and sweep. Steps carry the labels of docs/proof.md.

    Slots are the nodes of level 0, blocks those of level 1, segments of level 2, shards of level 3. Level [top] is the
    stash, which has no bound. [up k x] is the node over node x of level k. Nothing is assumed of either.

    A slot begins a new life when a put makes it live, or the end of a claim. The thread that began it then lowers the
    bounds over the slot, from the bottom up. A take that has guarded the wrong entry, and a sweep that has guarded one
    too early, make the slot live again in its old life, and lower nothing. *)
Require Import Base.
Local Open Scope nat_scope.

Inductive phase :=
| Free
| Fresh (t : nat)               (* popped by a put, not live yet *)
| Live
| Taken (t : nat)               (* guarded, by a take or a clear *)
| Swept (t : nat)               (* guarded, by a sweep that has not decided *)
| Batch                         (* guarded, in a batch: it is freed with that *)
| Claimed.                      (* doomed, or not *)

(** The slot has an entry that is live, or may be live again in the same life. *)
Definition live p := match p with Live | Taken _ | Swept _ => True | _ => False end.
(** What a sweep sees of a slot that is not live. *)
Definition busy p := match p with Taken _ | Swept _ | Batch => True | _ => False end.
Definition gone p := match p with Free | Fresh _ | Claimed => True | _ => False end.

(** A sweep. For each level that it has entered: the node [nd], whether it raised the bound of that node ([first]), the
    earliest deadline that it left below ([left_]), and which nodes below it has dealt with or entered ([dn]). Its batch
    was [full]. [met] has the slots that another call guarded when the sweep came by. [watch] is a slot and its life, which
    the theorems ask about; no step reads it. *)
Record sweep := Sw {
  now : nat; nd : nat -> nat; first : nat -> bool; left_ : nat -> nat; dn : nat -> nat -> bool;
  full : bool; met : nat -> bool; watch : option (nat * nat)
}.

Inductive pc :=
| Idle
| Filling (i : nat)                   (* P2 is next *)
| Filled (i : nat)                    (* P3 is next *)
| Lowering (i n d k : nat)            (* it began life n of slot i, with deadline d; the bound on level k is next *)
| Taking (i : nat)
| Sweeping (k : nat) (w : sweep)      (* on level k, between two nodes below *)
| Seen (i : nat) (n : option nat) (w : sweep)   (* the slot was in its life n, or busy; its deadline is read next *)
| Due (i n : nat) (w : sweep)         (* the slot was in its life n, and due; T2 is next *)
| Guarded (i : nat) (w : sweep).

Record state := St {
  ph : nat -> phase;
  dl : nat -> nat;                    (* the deadline *)
  life : nat -> nat;                  (* how many lives it has begun *)
  there : nat -> nat -> bool;         (* the node exists *)
  val : nat -> nat -> nat;            (* the bound, by level and node *)
  own : nat -> nat -> option nat;     (* SWEEPING, and which sweep raised it *)
  pcs : nat -> pc
}.

Definition upd2 {A} (f : nat -> nat -> A) k x v : nat -> nat -> A :=
  fun k' x' => if Nat.eqb k' k then if Nat.eqb x' x then v else f k' x' else f k' x'.

Definition set_pc s t p := St (ph s) (dl s) (life s) (there s) (val s) (own s) (upd (pcs s) t p).
Definition set_ph s i p := St (upd (ph s) i p) (dl s) (life s) (there s) (val s) (own s) (pcs s).
Definition set_dl s i d := St (ph s) (upd (dl s) i d) (life s) (there s) (val s) (own s) (pcs s).
Definition set_there s k x := St (ph s) (dl s) (life s) (upd2 (there s) k x true) (val s) (own s) (pcs s).
Definition set_val s k x v := St (ph s) (dl s) (life s) (there s) (upd2 (val s) k x v) (own s) (pcs s).
Definition set_own s k x o := St (ph s) (dl s) (life s) (there s) (val s) (upd2 (own s) k x o) (pcs s).

(** The sweep has dealt with node x below level k, and leaves d there; or leaves nothing there. *)
Definition pass w k x d :=
  Sw (now w) (nd w) (first w) (upd (left_ w) k (Nat.min (left_ w k) d)) (upd2 (dn w) k x true) (full w) (met w) (watch w).
Definition skip w k x :=
  Sw (now w) (nd w) (first w) (left_ w) (upd2 (dn w) k x true) (full w) (met w) (watch w).
Definition meet w i := Sw (now w) (nd w) (first w) (left_ w) (dn w) (full w) (upd (met w) i true) (watch w).

Inductive blabel :=
| N1 | N2 | P1 | P2 | P3 | P4 | P5 | T2 | T2none | T3no | T4 | U1 | U2 | U4
| W1first | W1second | W1later | W2 (i now : nat) | W2clear | W3 | W4 | W5 | W6
| Begin | Full | Leave | End (w : sweep).

Arguments upd : simpl never.
Arguments upd2 : simpl never.

Section Bounds.
Variables (top never : nat) (up : nat -> nat -> nat).

Fixpoint anc k i := match k with O => i | S k => up k (anc k i) end.

Definition enter w k x f :=
  Sw (now w) (upd (nd w) k x) (upd (first w) k f) (upd (left_ w) k never) (upd (upd2 (dn w) (S k) x true) k (fun _ => false))
    (full w) (met w) (watch w).
Definition leave w k :=
  Sw (now w) (nd w) (first w) (upd (left_ w) (S k) (Nat.min (left_ w (S k)) (left_ w k))) (dn w) (full w) (met w) (watch w).
(** The batch is full: what it has not visited counts as due. *)
Definition stop w k :=
  Sw (now w) (nd w) (first w) (upd (left_ w) k 0) (upd (dn w) k (fun _ => true)) true (met w) (watch w).

(** It has dealt with all that is below its node of level k. *)
Definition all_done (w : sweep) k :=
  forall x, up (pred k) x = nd w k -> dn w k x = true.

(** The put, or the end of the claim, that made it live has returned. *)
Definition returned s i := forall u d k, pcs s u <> Lowering i (life s i) d k.

(** The slot goes live: a life begins, and its bounds are to be lowered. *)
Definition go_live s t i :=
  St (upd (ph s) i Live) (dl s) (upd (life s) i (S (life s i))) (there s) (val s) (own s)
    (upd (pcs s) t (Lowering i (S (life s i)) (dl s i) 1)).

Definition lowered i n d k := if S k <? top then Lowering i n d (S k) else Idle.

Inductive bstep (s : state) (t : nat) : blabel -> state -> Prop :=
(* a segment is installed, which brings its blocks *)
| n1 k x :
    bstep s t N1 (set_there s k x)
(* put *)
| p1 i : pcs s t = Idle -> ph s i = Free -> (forall k, 1 <= k < top -> there s k (anc k i) = true) ->
    bstep s t P1 (set_pc (set_ph s i (Fresh t)) t (Filling i))
| p2 i d : pcs s t = Filling i ->
    bstep s t P2 (set_pc (set_dl s i d) t (Filled i))
| p3 i : pcs s t = Filled i ->
    bstep s t P3 (go_live s t i)
| p4 i n d : pcs s t = Lowering i n d 1 ->
    bstep s t P4 (set_pc (set_val s 1 (anc 1 i) (Nat.min (val s 1 (anc 1 i)) d)) t (lowered i n d 1))
| p5 i n d k : pcs s t = Lowering i n d k -> 1 < k ->
    bstep s t P5 (set_pc (set_val s k (anc k i) (Nat.min (val s k (anc k i)) d)) t (lowered i n d k))
(* take, clear *)
| t2 i : pcs s t = Idle -> ph s i = Live ->
    bstep s t T2 (set_pc (set_ph s i (Taken t)) t (Taking i))
| t3_no i : pcs s t = Taking i ->
    bstep s t T3no (set_pc (set_ph s i Live) t Idle)
| t4 i : pcs s t = Taking i ->
    bstep s t T4 (set_pc (set_ph s i Free) t Idle)
| w2_clear i : pcs s t = Taking i ->
    bstep s t W2clear (set_pc (set_ph s i Batch) t Idle)
| t4_batch i : ph s i = Batch ->
    bstep s t T4 (set_ph s i Free)
(* claim, renew, put back, deliver *)
| u1 i : pcs s t = Idle -> ph s i = Live ->
    bstep s t U1 (set_ph s i Claimed)
| u4 i d : ph s i = Claimed ->
    bstep s t U4 (set_dl s i d)
| u2 i : pcs s t = Idle -> ph s i = Claimed ->
    bstep s t U2 (go_live s t i)
| t4_claim i : ph s i = Claimed ->
    bstep s t T4 (set_ph s i Free)
(* sweep: it begins on level top, and enters and leaves nodes *)
| begin w : pcs s t = Idle -> 1 <= top ->
    (forall x, dn w top x = false) -> left_ w top = never -> full w = false -> (forall i, met w i = false) ->
    (forall i n, watch w = Some (i, n) -> nd w top = anc top i /\ life s i = n /\ live (ph s i) /\ returned s i) ->
    bstep s t Begin (set_pc s t (Sweeping top w))
| n2 k x w : pcs s t = Sweeping (S k) w -> 1 <= k -> up k x = nd w (S k) -> there s k x = false ->
    bstep s t N2 (set_pc s t (Sweeping (S k) (skip w (S k) x)))
| w1_first k x w : pcs s t = Sweeping (S k) w -> 1 <= k -> up k x = nd w (S k) -> dn w (S k) x = false ->
    own s k x = None -> val s k x <= now w ->
    bstep s t W1first (set_pc (set_own (set_val s k x never) k x (Some t)) t (Sweeping k (enter w k x true)))
| w1_second k x w u : pcs s t = Sweeping (S k) w -> 1 <= k -> up k x = nd w (S k) -> dn w (S k) x = false ->
    own s k x = Some u ->
    bstep s t W1second (set_pc s t (Sweeping k (enter w k x false)))
| w1_later k x w : pcs s t = Sweeping (S k) w -> 1 <= k -> up k x = nd w (S k) -> dn w (S k) x = false ->
    own s k x = None -> now w < val s k x ->
    bstep s t W1later (set_pc s t (Sweeping (S k) (pass w (S k) x (val s k x))))
| w4_live i w : pcs s t = Sweeping 1 w -> up 0 i = nd w 1 -> dn w 1 i = false -> ph s i = Live ->
    bstep s t W4 (set_pc s t (Seen i (Some (life s i)) w))
| w4_busy i w : pcs s t = Sweeping 1 w -> up 0 i = nd w 1 -> dn w 1 i = false -> busy (ph s i) ->
    bstep s t W4 (set_pc s t (Seen i None w))
| w4_gone i w : pcs s t = Sweeping 1 w -> up 0 i = nd w 1 -> dn w 1 i = false -> gone (ph s i) ->
    bstep s t W4 (set_pc s t (Sweeping 1 (skip w 1 i)))
| w5_due i n w : pcs s t = Seen i (Some n) w -> dl s i <= now w ->
    bstep s t W5 (set_pc s t (Due i n w))
| w5_later i n w : pcs s t = Seen i (Some n) w -> now w < dl s i ->
    bstep s t W5 (set_pc s t (Sweeping 1 (pass w 1 i (dl s i))))
| w5_busy i w : pcs s t = Seen i None w ->
    bstep s t W5 (set_pc s t (Sweeping 1 (meet (pass w 1 i (dl s i)) i)))
| t2_won i n w : pcs s t = Due i n w -> ph s i = Live ->
    bstep s t T2 (set_pc (set_ph s i (Swept t)) t (Guarded i w))
| t2_lost i n w : pcs s t = Due i n w -> ph s i = Live /\ life s i <> n \/ busy (ph s i) ->
    bstep s t T2none (set_pc s t (Seen i None w))
| t2_gone i n w : pcs s t = Due i n w -> gone (ph s i) ->
    bstep s t T2none (set_pc s t (Sweeping 1 (skip w 1 i)))
| w2 i w : pcs s t = Guarded i w -> dl s i <= now w ->
    bstep s t (W2 i (now w)) (set_pc (set_ph s i Batch) t (Sweeping 1 (skip w 1 i)))
| w6 i w : pcs s t = Guarded i w -> now w < dl s i ->
    bstep s t W6 (set_pc (set_ph s i Live) t (Sweeping 1 (pass w 1 i (dl s i))))
| is_full k w : pcs s t = Sweeping k w ->
    bstep s t Full (set_pc s t (Sweeping k (stop w k)))
| w3 k w : pcs s t = Sweeping k w -> k < top -> first w k = true -> all_done w k ->
    bstep s t W3 (set_pc (set_own (set_val s k (nd w k) (Nat.min (val s k (nd w k)) (left_ w k))) k (nd w k) None)
      t (Sweeping (S k) (leave w k)))
| leaves k w : pcs s t = Sweeping k w -> k < top -> first w k = false -> all_done w k ->
    bstep s t Leave (set_pc s t (Sweeping (S k) (leave w k)))
| ends w : pcs s t = Sweeping top w -> all_done w top ->
    bstep s t (End w) (set_pc s t Idle).

Definition binit : state :=
  St (fun _ => Free) (fun _ => 0) (fun _ => 0) (fun _ _ => false) (fun _ _ => never) (fun _ _ => None) (fun _ => Idle).

Inductive breach : state -> Prop :=
| breach_init : breach binit
| breach_step s t l s' : breach s -> bstep s t l s' -> breach s'.

(** * The invariant *)

(** The level that a sweep is on, and the sweep. *)
Definition at_ p :=
  match p with
  | Sweeping k w => Some (k, w)
  | Seen _ _ w | Due _ _ w | Guarded _ w => Some (1, w)
  | _ => None
  end.

(** A sweep on level k has entered one node on each level from k on, each below the next. The bounds that it has raised
    and not lowered again are bounds of these. *)
Definition frames_of s t :=
  match at_ (pcs s t) with
  | Some (k, w) =>
      1 <= k <= top /\ (forall j, k <= j < top -> nd w (S j) = up j (nd w j)) /\
      (forall j, k <= j < top -> first w j = true -> own s j (nd w j) = Some t) /\
      (forall j x, own s j x = Some t -> k <= j < top /\ nd w j = x /\ first w j = true)
  | None => forall j x, own s j x <> Some t
  end.
Definition Frames s := forall t, frames_of s t.

(** Who guards a slot, or has popped it. *)
Definition Guards s := forall t,
  match pcs s t with
  | Filling i | Filled i => ph s i = Fresh t
  | Taking i => ph s i = Taken t
  | Guarded i _ => ph s i = Swept t
  | _ => True
  end.

(** A thread lowers bounds to the deadline of the life that it began, while that lasts. *)
Definition Lives s := forall t i n d k,
  pcs s t = Lowering i n d k -> n <= life s i /\ (n = life s i -> live (ph s i) -> d = dl s i).

(** What is over a slot that is in use exists. *)
Definition There s := forall i k, ph s i <> Free -> 1 <= k < top -> there s k (anc k i) = true.

(** The thread that began the slot's life has yet to lower the bound on level k. *)
Definition owed s i k := exists u d j, pcs s u = Lowering i (life s i) d j /\ j <= k.

(** Below the node that it has entered on level m, the sweep, now on level k, will come to the slot, or already leaves a
    deadline that is P on some level over it. *)
Definition ahead (P : nat -> Prop) k w i m :=
  exists j, k <= j <= m /\ nd w j = anc j i /\ (P (left_ w j) \/ dn w j (anc (pred j) i) = false).
Definition nothing (_ : nat) := False.
Definition upto d v := v <= d.

Definition swept s i m :=
  exists u k w, own s m (anc m i) = Some u /\ at_ (pcs s u) = Some (k, w) /\ ahead (upto (dl s i)) k w i m.

(** The bound on level m is low enough for the slot, or will be. *)
Definition covered s i m := val s m (anc m i) <= dl s i \/ owed s i m \/ swept s i m.
Definition Cover s := forall i m, live (ph s i) -> 1 <= m < top -> covered s i m.

Definition watched s t := forall k w i n,
  at_ (pcs s t) = Some (k, w) -> watch w = Some (i, n) ->
  n <= life s i /\ nd w top = anc top i /\
  (life s i = n -> live (ph s i) ->
    returned s i /\ ahead (upto (dl s i)) k w i top /\
    (dl s i <= now w -> full w = false -> met w i = false -> ahead nothing k w i top)).
Definition Watched s := forall t, watched s t.

Definition BInv s := Frames s /\ Guards s /\ Lives s /\ There s /\ Cover s /\ Watched s.

(** * Each step keeps it *)

Lemma upd2_same A (f : nat -> nat -> A) k x v : upd2 f k x v k x = v.
Proof. unfold upd2. now rewrite !Nat.eqb_refl. Qed.

Lemma upd2_other A (f : nat -> nat -> A) k x v k' x' : k' <> k \/ x' <> x -> upd2 f k x v k' x' = f k' x'.
Proof. unfold upd2. intro H. destruct (Nat.eqb_spec k' k), (Nat.eqb_spec x' x); intuition congruence. Qed.

(** Splits every [upd] and [upd2] in sight into its cases. *)
Ltac ne := first [ assumption | apply Nat.neq_sym; assumption | lia ].
Ltac cases_of y x := let E := fresh "E" in destruct (Nat.eq_dec y x) as [E | E]; [try subst y; try subst x |].
Ltac split_all :=
  repeat match goal with
  | H : context [upd ?f ?x ?v ?x] |- _ => rewrite (upd_same _ f x v) in H
  | |- context [upd ?f ?x ?v ?x] => rewrite (upd_same _ f x v)
  | H : context [upd2 ?f ?k ?x ?v ?k ?x] |- _ => rewrite (upd2_same _ f k x v) in H
  | |- context [upd2 ?f ?k ?x ?v ?k ?x] => rewrite (upd2_same _ f k x v)
  | H : context [upd ?f ?x ?v ?y] |- _ => rewrite (upd_other _ f x v y) in H by ne
  | |- context [upd ?f ?x ?v ?y] => rewrite (upd_other _ f x v y) by ne
  | H : context [upd2 ?f ?k ?x ?v ?a ?b] |- _ => rewrite (upd2_other _ f k x v a b) in H by (left + right; ne)
  | |- context [upd2 ?f ?k ?x ?v ?a ?b] => rewrite (upd2_other _ f k x v a b) by (left + right; ne)
  | H : context [upd ?f ?x ?v ?y] |- _ => cases_of y x
  | |- context [upd ?f ?x ?v ?y] => cases_of y x
  | H : context [upd2 ?f ?k ?x ?v ?k ?b] |- _ => cases_of b x
  | |- context [upd2 ?f ?k ?x ?v ?k ?b] => cases_of b x
  | H : context [upd2 ?f ?k ?x ?v ?a ?b] |- _ => cases_of a k
  | |- context [upd2 ?f ?k ?x ?v ?a ?b] => cases_of a k
  end.

Lemma lowered_is i n d k : (S k < top /\ lowered i n d k = Lowering i n d (S k)) \/ (top <= S k /\ lowered i n d k = Idle).
Proof. unfold lowered. destruct (Nat.ltb_spec (S k) top); auto. Qed.

Lemma at_lowered i n d k : at_ (lowered i n d k) = None.
Proof. destruct (lowered_is i n d k) as [(_ & ->) | (_ & ->)]; reflexivity. Qed.

Lemma keep_frames s t l s' : Frames s -> bstep s t l s' -> Frames s'.
Proof.
  intros F H t'. specialize (F t') as F'. specialize (F t). unfold frames_of in *.
  destruct (Nat.eq_dec t' t) as [-> | Ht].
  - clear F'. inversion H; subst; clear H; cbn in *; rewrite ?upd_same, ?at_lowered; cbn;
      try match goal with P : pcs s t = _ |- _ => rewrite P in F; rewrite ?P; cbn in F |- * end; trivial.
    all: try (destruct F as (K & U & O & N)).
    + (* Begin *) repeat split; intros; try lia; try (exfalso; eapply F; eassumption).
    + (* W1first *)
      split; [lia | split; [| split]].
      * intros j J. destruct (Nat.eq_dec j k) as [-> | ]; split_all; [congruence | apply U; lia].
      * intros j J. destruct (Nat.eq_dec j k) as [-> | ]; split_all; [reflexivity | apply O; lia].
      * intros j y E. destruct (Nat.eq_dec j k) as [-> | ].
        -- destruct (Nat.eq_dec y x) as [-> | ]; split_all; [repeat split; lia |]. apply N in E. lia.
        -- split_all. apply N in E. repeat split; try tauto; lia.
    + split; [lia | split; [| split]].
      * intros j J. destruct (Nat.eq_dec j k) as [-> | ]; split_all; [congruence | apply U; lia].
      * intros j J. destruct (Nat.eq_dec j k) as [-> | ]; split_all; [discriminate | apply O; lia].
      * intros j y E. apply N in E. split_all. repeat split; try tauto; lia.
    + (* W3 *)
      split; [lia | split; [| split]].
      * intros j J. apply U; lia.
      * intros j J. split_all. apply O; lia.
      * intros j y E. destruct (Nat.eq_dec j k) as [-> | ].
        -- destruct (Nat.eq_dec y (nd w k)) as [-> | ]; split_all; [discriminate |]. apply N in E. destruct E as (_ & E & _). congruence.
        -- split_all. apply N in E. repeat split; try tauto; lia.
    + (* Leave *)
      split; [lia | split; [| split]].
      * intros j J. apply U; lia.
      * intros j J. apply O; lia.
      * intros j y E. apply N in E. destruct (Nat.eq_dec j k) as [-> | ]; [exfalso; destruct E as (_ & _ & E); congruence |].
        repeat split; try tauto; lia.
    + intros j y E. apply N in E. lia.
  - assert (pcs s' t' = pcs s t') as -> by (inversion H; subst; clear H; cbn; rewrite ?upd_other by assumption; reflexivity).
    assert (forall j x, own s' j x = own s j x \/ own s' j x = Some t \/
              own s j x = Some t /\ own s' j x = None) as OO.
    { intros j x. inversion H; subst; clear H; cbn; auto.
      - split_all; auto.
      - match goal with P : pcs s t = _ |- _ => rewrite P in F; cbn in F end. destruct F as (_ & _ & O & _).
        split_all; auto. right; right. split; trivial. apply O; [lia | assumption]. }
    assert (forall j x, own s j x = Some t' -> own s' j x = Some t') as TO.
    { intros j x E. destruct (OO j x) as [E' | [E' | (E' & _)]]; try congruence.
      inversion H; subst; clear H; cbn in *; try congruence; split_all; congruence. }
    assert (forall j x, own s' j x = Some t' -> own s j x = Some t') as FROM.
    { intros j x E. destruct (OO j x) as [E' | [E' | (_ & E')]]; congruence. }
    destruct (at_ (pcs s t')) as [[k w] |]; [| intros j x E; now apply FROM in E; apply F' in E].
    destruct F' as (K & U & O & N). split; [lia | split; [assumption | split]].
    + intros j J E. apply TO. auto.
    + intros j y E. apply N. now apply FROM.
Qed.

Lemma keep_guards s t l s' : Guards s -> bstep s t l s' -> Guards s'.
Proof.
  intros G H t'. pose proof (G t') as G'. specialize (G t).
  destruct (Nat.eq_dec t' t) as [-> | Ht].
  - clear G'. inversion H; subst; clear H; cbn in *; rewrite ?upd_same;
      try match goal with P : pcs s t = _ |- _ => rewrite P in *; cbn in * end; rewrite ?upd_same; trivial.
    all: try (destruct (lowered_is i n d 1) as [(_ & ->) | (_ & ->)]; trivial).
    all: try (destruct (lowered_is i n d k) as [(_ & ->) | (_ & ->)]; trivial).
    all: destruct (pcs s t); trivial; split_all; congruence.
  - assert (pcs s' t' = pcs s t') as -> by (inversion H; subst; clear H; cbn; rewrite ?upd_other by assumption; reflexivity).
    destruct (pcs s t') eqn:P; trivial.
    all: inversion H; subst; clear H; cbn in *; trivial.
    all: repeat match goal with Q : pcs ?a ?b = _, G : context [pcs ?a ?b] |- _ => rewrite Q in G end; split_all; congruence.
Qed.

Lemma keep_lives s t l s' : Guards s -> Lives s -> bstep s t l s' -> Lives s'.
Proof.
  intros G L H t' i' n' d' k' P'. specialize (G t).
  assert (Lowering i' n' d' k' = pcs s t' \/ (t' = t /\ exists k0, pcs s t = Lowering i' n' d' k0) \/
          n' = life s' i' /\ d' = dl s' i' /\ t' = t /\ ph s' i' = Live) as C.
  { inversion H; subst; clear H; cbn in *; split_all; auto; try discriminate.
    all: try (exfalso; congruence).
    all: try (inversion P'; subst; right; right; rewrite ?upd_same; auto; fail).
    all: match type of P' with lowered ?i ?n ?d ?k = _ =>
           destruct (lowered_is i n d k) as [(_ & E) | (_ & E)]; rewrite E in P'; [inversion P'; subst; right; left; eauto | discriminate] end. }
  assert ((exists u k0, pcs s u = Lowering i' n' d' k0) \/ n' = life s' i' /\ d' = dl s' i') as [(u & k0 & P) | (-> & ->)].
  { destruct C as [C | [(_ & k0 & C) | C]]; [left; eauto | left; eauto | right; tauto]. }
  2: { split; auto. }
  destruct (L _ _ _ _ _ P) as (A & B).
  assert (life s' i' = life s i' \/ life s' i' = S (life s i')) as E.
  { inversion H; subst; clear H; cbn; split_all; auto. }
  destruct E as [E | E]; rewrite E; [| split; [lia | intros; lia]]. split; [assumption |].
  intros En Lv.
  assert (live (ph s i') /\ dl s' i' = dl s i') as (Lv' & ->); [| auto].
  inversion H; subst; clear H; cbn in *; try match goal with Q : pcs s t = _ |- _ => rewrite Q in G; cbn in G end;
    clear C; split_all; cbn in *; try tauto; try lia; auto;
    repeat match goal with
    | Q : ph s ?j = _, M : live (ph s ?j) |- _ => rewrite Q in M; cbn in M; try tauto
    | Q : ph s ?j = _ |- live (ph s ?j) /\ _ => rewrite Q; split; [exact I | reflexivity]
    end.
Qed.

Lemma keep_there s t l s' : Guards s -> There s -> bstep s t l s' -> There s'.
Proof.
  intros G E H i' k' N K. specialize (G t).
  assert (there s k' (anc k' i') = true -> there s' k' (anc k' i') = true) as M.
  { inversion H; subst; cbn; auto. intro. split_all; auto. }
  apply M. clear M.
  inversion H; subst; clear H; cbn in *; try match goal with Q : pcs s t = _ |- _ => rewrite Q in G; cbn in G end;
    split_all; auto; apply E; trivial; try congruence.
Qed.

(** What a step does to a life, to the bounds, and to other threads. *)
Lemma same_life s t l s' i :
  Guards s -> bstep s t l s' -> life s' i = life s i -> live (ph s' i) -> live (ph s i) /\ dl s' i = dl s i.
Proof.
  intros G H En Lv. specialize (G t).
  inversion H; subst; clear H; cbn in *; try match goal with Q : pcs s t = _ |- _ => rewrite Q in G; cbn in G end;
    split_all; cbn in *; try tauto; try lia; auto;
    repeat match goal with
    | Q : ph s ?j = _, M : live (ph s ?j) |- _ => rewrite Q in M; cbn in M; try tauto
    | Q : ph s ?j = _ |- live (ph s ?j) /\ _ => rewrite Q; split; [exact I | reflexivity]
    end.
Qed.

Lemma life_step s t l s' i : bstep s t l s' ->
  life s' i = life s i \/ life s' i = S (life s i) /\ pcs s' t = Lowering i (life s' i) (dl s' i) 1.
Proof. intro H. inversion H; subst; clear H; cbn; split_all; auto. Qed.

Lemma others s t l s' u : bstep s t l s' -> u <> t -> pcs s' u = pcs s u.
Proof. intros H N. inversion H; subst; cbn; rewrite ?upd_other by assumption; reflexivity. Qed.

Lemma own_step s t l s' u j x :
  Frames s -> bstep s t l s' -> u <> t -> own s j x = Some u -> own s' j x = Some u.
Proof.
  intros F H N E. specialize (F t). unfold frames_of in F.
  inversion H; subst; clear H; cbn; trivial.
  - split_all; congruence.
  - match goal with P : pcs s t = _ |- _ => rewrite P in F; cbn in F end. destruct F as (K & _ & O & _).
    assert (own s k (nd w k) = Some t) by (apply O; [lia | assumption]). split_all; congruence.
Qed.

Lemma val_step s t l s' m x : bstep s t l s' ->
  val s' m x <= val s m x \/
  own s' m x = Some t /\ exists w, pcs s' t = Sweeping m (enter w m x true).
Proof. intro H. inversion H; subst; clear H; cbn; auto; split_all; auto; try (left; lia). right. eauto. Qed.

Lemma owed_step s t l s' i m :
  Lives s -> bstep s t l s' -> live (ph s i) -> life s' i = life s i -> m < top -> owed s i m ->
  owed s' i m \/ val s' m (anc m i) <= dl s i.
Proof.
  intros L H Lv E M (u & d & j & P & J).
  destruct (Nat.eq_dec u t) as [-> | N].
  2: { left. exists u, d, j. rewrite E, (others _ _ _ _ _ H N). auto. }
  destruct (L _ _ _ _ _ P) as (_ & D). specialize (D eq_refl Lv). subst d.
  assert (pcs s' t = pcs s t \/ pcs s' t = lowered i (life s i) (dl s i) j /\ val s' j (anc j i) <= dl s i) as [Q | (Q & V)].
  { inversion H; subst; clear H; cbn; auto; rewrite ?upd_same; cbn;
      match goal with Q : pcs s t = _ |- _ => rewrite P in Q; inversion Q; subst end.
    all: right; split; [reflexivity | rewrite upd2_same; lia]. }
  - left. exists t, (dl s i), j. rewrite E, Q. auto.
  - destruct (Nat.eq_dec j m) as [-> | ]; [now right |]. left. exists t, (dl s i), (S j). rewrite E, Q.
    destruct (lowered_is i (life s i) (dl s i) j) as [(_ & ->) | (? & _)]; [split; [reflexivity | lia] | lia].
Qed.

Definition down (P : nat -> Prop) := forall v u, P v -> u <= v -> P u.

Lemma down_upto d : down (upto d).
Proof. unfold down, upto. lia. Qed.

Lemma down_nothing : down nothing.
Proof. unfold down, nothing. tauto. Qed.

Ltac fin := repeat split; auto; lia.

(** What the moves of a sweep leave ahead of it. *)
Lemma ahead_enter (P : nat -> Prop) k w x f i m : 1 <= k -> S k <= m -> ahead P (S k) w i m -> ahead P k (enter w k x f) i m.
Proof.
  intros K M (j & J & E & A). unfold ahead, enter. cbn.
  destruct (Nat.eq_dec j (S k)) as [-> | ].
  - cbn in A. destruct A as [A | A].
    + exists (S k). rewrite !upd_other with (f := nd w), upd_other with (f := left_ w) by lia. fin.
    + destruct (Nat.eq_dec (anc k i) x) as [<- | ].
      * exists k. rewrite !upd_same. fin.
      * exists (S k). rewrite !upd_other with (f := nd w), upd_other with (f := left_ w) by lia. cbn [pred].
        rewrite upd_other, upd2_other by auto with arith. fin.
  - exists j. rewrite !upd_other with (f := nd w), upd_other with (f := left_ w), upd_other, upd2_other by lia. fin.
Qed.

Lemma ahead_pass (P : nat -> Prop) k w x d i m : down P ->
  (anc k i = x -> P d) -> ahead P (S k) w i m -> ahead P (S k) (pass w (S k) x d) i m.
Proof.
  intros Dn D (j & J & E & A). exists j. split; [assumption |]. split; [assumption |]. cbn.
  destruct (Nat.eq_dec j (S k)) as [-> | ].
  - cbn [pred] in *. rewrite upd_same. destruct (Nat.eq_dec (anc k i) x) as [X | ].
    + left. apply Dn with d; [auto | lia].
    + destruct A as [A | A]; [left | right]; [apply Dn with (1 := A); lia |]. now rewrite upd2_other by auto.
  - rewrite upd_other, upd2_other by auto. assumption.
Qed.

Lemma ahead_skip (P : nat -> Prop) k w x i m : anc k i <> x -> ahead P (S k) w i m -> ahead P (S k) (skip w (S k) x) i m.
Proof.
  intros X (j & J & E & A). exists j. split; [assumption |]. split; [assumption |]. cbn.
  destruct (Nat.eq_dec j (S k)) as [-> | ]; [cbn [pred] in * |]; rewrite upd2_other by auto; assumption.
Qed.

Lemma ahead_stop (P : nat -> Prop) k w i m : P 0 -> ahead P k w i m -> ahead P k (stop w k) i m.
Proof.
  intros Z (j & J & E & A). exists j. split; [assumption |]. split; [assumption |]. cbn.
  destruct (Nat.eq_dec j k) as [-> | ]; [rewrite upd_same; now left | now rewrite !upd_other by assumption].
Qed.

Lemma done_left (P : nat -> Prop) k w i : 1 <= k -> all_done w k -> nd w k = anc k i ->
  P (left_ w k) \/ dn w k (anc (pred k) i) = false -> P (left_ w k).
Proof.
  intros K A E [L | D]; [assumption | exfalso]. rewrite A in D; [discriminate |]. destruct k; [lia | cbn; now rewrite E].
Qed.

Lemma ahead_leave (P : nat -> Prop) k w i m : down P -> 1 <= k -> k < m -> m <= top ->
  nd w (S k) = up k (nd w k) -> all_done w k -> ahead P k w i m -> ahead P (S k) (leave w k) i m.
Proof.
  intros Dn K M T U A (j & J & E & B). unfold ahead. cbn.
  destruct (Nat.eq_dec j k) as [-> | ].
  - exists (S k). split; [lia |]. split; [rewrite U; cbn; now rewrite E |]. left. rewrite upd_same.
    apply done_left in B; trivial. apply Dn with (1 := B). lia.
  - exists j. split; [lia |]. split; [assumption |].
    destruct (Nat.eq_dec j (S k)) as [-> | ]; [rewrite upd_same | now rewrite upd_other by assumption].
    destruct B as [B | B]; [left; apply Dn with (1 := B); lia | now right].
Qed.

(** A step of a thread that sweeps. *)
Lemma at_step s t l s' k w : bstep s t l s' -> at_ (pcs s t) = Some (k, w) -> k <= top ->
  (exists k' w', at_ (pcs s' t) = Some (k', w') /\ now w' = now w /\ watch w' = watch w /\ nd w' top = nd w top /\
    (full w' = false -> full w = false) /\ (forall i, met w' i = false -> met w i = false)) \/
  l = End w /\ pcs s t = Sweeping top w /\ all_done w top /\ at_ (pcs s' t) = None.
Proof.
  intros H P K. inversion H; subst; clear H; cbn; rewrite ?upd_same; cbn.
  all: try match goal with Q : pcs ?a ?b = _ |- _ => rewrite Q in P; cbn in P; inversion P; subst; clear P end.
  all: try (left; do 2 eexists; split; [eassumption || reflexivity |]; cbn; repeat split; auto; try discriminate; try (apply upd_other; lia); fail).
  - left. do 2 eexists. split; [reflexivity |]. cbn. repeat split; auto. intros j. unfold upd. destruct (Nat.eqb j i); [discriminate | trivial].
  - right. auto.
Qed.

(** What is ahead of a sweep stays so, until the sweep leaves the node on level m. *)
Lemma ahead_step (P : nat -> Prop) s t l s' i m k w k' w' :
  Frames s -> There s -> Cover s -> bstep s t l s' -> live (ph s i) -> live (ph s' i) -> 1 <= m <= top -> down P ->
  at_ (pcs s t) = Some (k, w) -> at_ (pcs s' t) = Some (k', w') -> k <= m ->
  (forall v, v <= dl s i -> P v) \/ dl s i <= now w /\ full w' = false /\ met w' i = false ->
  ahead P k w i m ->
  k' <= m /\ ahead P k' w' i m \/ owed s' i m \/ k = m /\ k' = S m /\ P (left_ w m).
Proof.
  intros F Th C H Lv Lv' M Dn At At' KM Y A. specialize (F t). unfold frames_of in F. rewrite At in F.
  destruct F as (K & U & _ & _).
  inversion H; subst; clear H; cbn in *; rewrite ?upd_same in At'; cbn in At';
    try match goal with Q : pcs s t = _ |- _ => rewrite Q in At; cbn in At; inversion At; subst; clear At end;
    try discriminate; try match type of At' with Some _ = Some _ => inversion At'; subst; clear At' end.
  all: try (rewrite At in At'; inversion At'; subst; left; split; assumption).
  all: try (left; split; assumption).
  - (* N2 *) left. split; [assumption |]. apply ahead_skip; trivial. intros <-.
    rewrite (Th i k0) in * by (lia || now intro Q; rewrite Q in Lv). discriminate.
  - (* W1 *) left. split; [lia |]. apply ahead_enter; trivial; lia.
  - left. split; [lia |]. apply ahead_enter; trivial; lia.
  - destruct (Nat.eq_dec (anc k0 i) x) as [<- | X].
    + destruct (C i k0 Lv ltac:(lia)) as [V | [V | V]].
      * left. split; [assumption |]. apply ahead_pass; trivial. intros _. destruct Y as [Y | Y]; [auto | lia].
      * right; left. destruct V as (u & d & j & Q & J). exists u, d, j. cbn.
        destruct (Nat.eq_dec u t) as [-> | ]; [congruence |]. rewrite upd_other by assumption. split; [assumption | lia].
      * destruct V as (u & k' & w' & Q & _). congruence.
    + left. split; [assumption |]. apply ahead_pass; trivial. intro. contradiction.
  - (* W4 *) left. split; [assumption |]. apply ahead_skip; trivial. cbn. intros <-.
    match goal with Q : gone (ph s ?i) |- _ => destruct (ph s i); cbn in *; tauto end.
  - (* W5 *) left. split; [assumption |]. apply ahead_pass; trivial. cbn. intros <-. destruct Y as [Y | Y]; [auto | lia].
  - left. split; [assumption |]. change (ahead P 1 (pass w 1 i0 (dl s i0)) i m). apply ahead_pass; trivial. cbn. intros <-.
    cbn in Y. rewrite upd_same in Y. destruct Y as [Y | (_ & _ & Y)]; [auto | discriminate].
  - (* T2 *) left. split; [assumption |]. apply ahead_skip; trivial. cbn. intros <-.
    match goal with Q : gone (ph s ?i) |- _ => destruct (ph s i); cbn in *; tauto end.
  - (* W2 *) left. split; [assumption |]. apply ahead_skip; trivial. cbn. intros <-. rewrite upd_same in Lv'. exact Lv'.
  - (* W6 *) left. split; [assumption |]. apply ahead_pass; trivial. cbn. intros <-. destruct Y as [Y | Y]; [auto | lia].
  - (* Full *) left. split; [assumption |]. apply ahead_stop; trivial. destruct Y as [Y | (_ & Y & _)]; [apply Y; lia | discriminate].
  - (* W3 *) destruct (Nat.eq_dec k m) as [-> | ].
    + right; right. repeat split. destruct A as (j & J & E & A). assert (j = m) as -> by lia. apply done_left in A; trivial. lia.
    + left. split; [lia |]. apply ahead_leave; trivial; try lia. apply U. lia.
  - destruct (Nat.eq_dec k m) as [-> | ].
    + right; right. repeat split. destruct A as (j & J & E & A). assert (j = m) as -> by lia. apply done_left in A; trivial. lia.
    + left. split; [lia |]. apply ahead_leave; trivial; try lia. apply U. lia.
Qed.

Lemma own_self s t l s' j x : bstep s t l s' -> own s j x = Some t ->
  own s' j x = Some t \/ exists w, pcs s t = Sweeping j w /\ pcs s' t = Sweeping (S j) (leave w j) /\ val s' j x <= left_ w j.
Proof.
  intros H O. inversion H; subst; clear H; cbn; auto; rewrite ?upd_same.
  - left. split_all; congruence.
  - destruct (Nat.eq_dec j k) as [-> | ]; [destruct (Nat.eq_dec x (nd w k)) as [-> | ] |].
    + right. exists w. rewrite upd2_same. repeat split; trivial. lia.
    + left. rewrite upd2_other; auto.
    + left. rewrite upd2_other; auto.
Qed.

Lemma keep_cover s t l s' : BInv s -> bstep s t l s' -> Cover s'.
Proof.
  intros (F & G & L & Th & C & _) H i m Lv' M.
  destruct (life_step s t l s' i H) as [E | (E & P)].
  2: { right; left. exists t, (dl s' i), 1. split; [assumption | lia]. }
  destruct (same_life s t l s' i G H E Lv') as (Lv & D).
  destruct (val_step s t l s' m (anc m i) H) as [V | (O & w & P)].
  2: { right; right. exists t, m, (enter w m (anc m i) true). split; [assumption |]. rewrite P. split; [reflexivity |].
       exists m. cbn. rewrite !upd_same. fin. }
  unfold covered. rewrite D. destruct (C i m Lv M) as [B | [B | (u & k & w & O & At & A)]].
  - left. lia.
  - destruct (owed_step s t l s' i m L H Lv E ltac:(lia) B); tauto.
  - destruct (Nat.eq_dec u t) as [-> | N].
    2: { right; right. exists u, k, w. rewrite D, (others s t l s' u H N). split; [| auto]. now apply (own_step s t l s'). }
    pose proof (F t) as Ft. unfold frames_of in Ft. rewrite At in Ft. destruct Ft as (K & _ & _ & Fo).
    destruct (Fo _ _ O) as (KM & Nd & Fi).
    destruct (at_step s t l s' k w H At ltac:(lia)) as [(k' & w' & At' & _) | (_ & P & _)].
    2: { rewrite P in At. cbn in At. inversion At. lia. }
    destruct (ahead_step (upto (dl s i)) s t l s' i m k w k' w') as [(KM' & A') | [A' | (-> & -> & A')]]; trivial; try lia.
    + apply down_upto.
    + left. unfold upto. auto.
    + right; right. exists t, k', w'. rewrite D. split; [| auto].
      destruct (own_self s t l s' m (anc m i) H O) as [Q | (v & Q & Q' & _)]; [assumption | exfalso].
      rewrite Q' in At'. cbn in At'. inversion At'. lia.
    + auto.
    + left. destruct (own_self s t l s' m (anc m i) H O) as [Q | (v & Q & Q' & V')].
      * exfalso. pose proof (keep_frames s t l s' F H t) as Ft. unfold frames_of in Ft. rewrite At' in Ft. apply Ft in Q. lia.
      * rewrite Q in At. cbn in At. inversion At. subst. unfold upto in A'. lia.
Qed.

(** Nobody comes to owe a bound while the slot's life lasts. *)
Lemma returned_step s t l s' i : bstep s t l s' -> life s' i = life s i -> returned s i -> returned s' i.
Proof.
  intros H E R u d k P. rewrite E in P. destruct (Nat.eq_dec u t) as [-> | N].
  2: { rewrite (others _ _ _ _ _ H N) in P. now apply R in P. }
  inversion H; subst; clear H; cbn in *; rewrite ?upd_same in P; try discriminate; try (now apply R in P).
  all: try match type of P with lowered ?i ?n ?d ?k = _ => destruct (lowered_is i n d k) as [(_ & Q) | (_ & Q)]; rewrite Q in P end.
  all: try discriminate.
  all: inversion P; subst; try (eapply R; eassumption).
  all: rewrite upd_same in E; lia.
Qed.

Lemma keep_watched s t l s' : BInv s -> bstep s t l s' -> Watched s'.
Proof.
  intros (F & G & L & Th & C & W) H t' k' w' i n At' Wt.
  assert (forall k w, at_ (pcs s t') = Some (k, w) -> watch w = Some (i, n) -> n <= life s' i /\
    (life s' i = n -> live (ph s' i) -> life s i = n /\ live (ph s i) /\ dl s' i = dl s i /\ returned s' i)) as Same.
  { intros k w At Wt0. destruct (W t' k w i n At Wt0) as (A & _ & B).
    destruct (life_step s t l s' i H) as [E | (E & _)]; [| split; [lia | intros; lia]]. split; [lia |].
    intros E' Lv'. destruct (same_life s t l s' i G H E Lv') as (Lv & D). destruct (B ltac:(lia) Lv) as (R & _).
    pose proof (returned_step s t l s' i H E R). auto with arith. repeat split; auto; lia. }
  destruct (Nat.eq_dec t' t) as [-> | N].
  2: { rewrite (others s t l s' t' H N) in At'. destruct (Same k' w' At' Wt) as (A & B).
       destruct (W t' k' w' i n At' Wt) as (_ & T & Y). split; [assumption |]. split; [assumption |].
       intros E Lv'. destruct (B E Lv') as (E' & Lv & D & R). rewrite D. specialize (Y E' Lv). tauto. }
  destruct (at_ (pcs s t)) as [[k w] |] eqn:At.
  - pose proof (F t) as Ft. unfold frames_of in Ft. rewrite At in Ft. destruct Ft as (K & _).
    destruct (at_step s t l s' k w H At ltac:(lia)) as [(k0 & w0 & P & Now & Wa & Nd & Fu & Me) | (_ & _ & _ & P)]; [| congruence].
    rewrite At' in P. inversion P. subst k0 w0. rewrite Wt in Wa. symmetry in Wa.
    destruct (Same k w eq_refl Wa) as (A & B). destruct (W t k w i n At Wa) as (_ & T & Y).
    split; [assumption |]. split; [congruence |]. intros E Lv'. destruct (B E Lv') as (E' & Lv & D & R).
    destruct (Y E' Lv) as (_ & A1 & A2). split; [assumption |].
    assert (forall P, down P -> (forall v, v <= dl s i -> P v) \/ dl s i <= now w /\ full w' = false /\ met w' i = false ->
      ahead P k w i top -> ahead P k' w' i top) as Go.
    { intros P' Dn Y' Ah. destruct (ahead_step P' s t l s' i top k w k' w') as [(_ & Z) | [Z | (-> & -> & _)]]; trivial; try lia.
      - destruct Z as (u & d & j & Z & _). now apply R in Z.
      - pose proof (keep_frames s t l s' F H t) as Ft. unfold frames_of in Ft. rewrite At' in Ft. lia. }
    rewrite D, Now. split; [apply Go; auto using down_upto; unfold upto; auto |].
    intros Due Nf Nm. apply Go; auto using down_nothing.
  - (* Begin *)
    pose proof (returned_step s t l s' i H) as RS.
    inversion H; subst; clear H; cbn in *; rewrite ?upd_same, ?at_lowered in At'; cbn in At'; try discriminate; try congruence.
    all: try match goal with Q : pcs ?a ?b = _, M : at_ (pcs ?a ?b) = None |- _ => rewrite Q in M; cbn in M; discriminate M end.
    inversion At'; subst; clear At'.
    match goal with Q : forall i n, watch _ = Some _ -> _ |- _ => destruct (Q i n Wt) as (Nd & E & Lv & R) end.
    split; [lia |]. split; [assumption |]. intros _ _. split; [exact (RS eq_refl R) |].
    assert (ahead nothing top w' i top) as Z.
    { exists top. split; [lia |]. split; [assumption |]. right. auto. }
    split; [| auto]. destruct Z as (j & J & Nj & [[] | Z]). exists j. auto.
Qed.


Lemma binv_step s t l s' : BInv s -> bstep s t l s' -> BInv s'.
Proof.
  intros I H. pose proof I as (F & G & L & Th & C & W). repeat apply conj.
  - eapply keep_frames; eassumption.
  - eapply keep_guards; eassumption.
  - eapply keep_lives; eassumption.
  - eapply keep_there; eassumption.
  - eapply keep_cover; eassumption.
  - eapply keep_watched; eassumption.
Qed.

Theorem binv_reach s : breach s -> BInv s.
Proof.
  induction 1 as [| s t l s' _ I H]; [| eapply binv_step; eassumption].
  repeat apply conj.
  - intro t. cbn. discriminate.
  - intro t. exact Logic.I.
  - intros t i n d k Q. discriminate Q.
  - intros i k Q. now destruct Q.
  - intros i m [].
  - intros t k w i n Q. discriminate Q.
Qed.

(** * The promises *)

(** Promise 9. A bound is at most the deadline of each entry below it that is live and whose put has returned, unless a
    sweep has raised it and has not lowered it again. *)
Theorem bounds_hold s i m :
  breach s -> live (ph s i) -> returned s i -> 1 <= m < top -> own s m (anc m i) = None -> val s m (anc m i) <= dl s i.
Proof.
  intros R Lv Re M O. destruct (binv_reach s R) as (_ & _ & _ & _ & C & _).
  destruct (C i m Lv M) as [V | [(u & d & j & P & _) | (u & k & w & Q & _)]]; [assumption | now apply Re in P | congruence].
Qed.

(** Promise 9. If a sweep has, it is still under way below that bound: it will come to the entry, or what it lowers the
    bound to is at most the deadline. *)
Theorem a_raised_bound_is_lowered_again s i m t :
  breach s -> live (ph s i) -> returned s i -> 1 <= m < top -> own s m (anc m i) = Some t ->
  val s m (anc m i) <= dl s i \/
  exists k w, at_ (pcs s t) = Some (k, w) /\ k <= m /\ nd w m = anc m i /\ ahead (upto (dl s i)) k w i m.
Proof.
  intros R Lv Re M O. destruct (binv_reach s R) as (F & _ & _ & _ & C & _).
  destruct (C i m Lv M) as [V | [(u & d & j & P & _) | (u & k & w & Q & At & A)]]; [now left | now apply Re in P |].
  rewrite O in Q. inversion Q. subst u. right. exists k, w. specialize (F t). unfold frames_of in F. rewrite At in F.
  destruct F as (_ & _ & _ & N). destruct (N _ _ O) as (K & E & _). repeat split; trivial; lia.
Qed.

(** Promise 9. A sweep overlooks no entry that was live, and whose put had returned, when it began: at its end the entry
    has gone or is being removed, or has been claimed, or another call had it guarded when the sweep came by, or the batch
    was full, or it is not due. *)
Theorem a_sweep_overlooks_nothing s t w s' i n :
  breach s -> bstep s t (End w) s' -> watch w = Some (i, n) -> life s i = n -> live (ph s i) ->
  met w i = false -> full w = false -> now w < dl s i.
Proof.
  intros R H Wt E Lv M Fu. destruct (binv_reach s R) as (F & _ & _ & _ & _ & W). specialize (F t). unfold frames_of in F.
  inversion H; subst. match goal with P : pcs s t = _ |- _ => rewrite P in F; cbn in F end. destruct F as (K & _).
  destruct (W t top w i _ ltac:(match goal with P : pcs s t = _ |- _ => rewrite P end; reflexivity) Wt) as (_ & _ & Y).
  destruct (Y eq_refl Lv) as (_ & _ & Z). destruct (le_lt_dec (dl s i) (now w)) as [D | D]; [exfalso | assumption].
  destruct (Z D Fu M) as (j & J & Nj & [[] | X]). assert (j = top) as -> by lia.
  match goal with A : all_done w top |- _ => rewrite A in X; [discriminate |] end.
  rewrite Nj. destruct top; [lia | reflexivity].
Qed.

(** Promise 9. What a sweep returns, the time of the next one, is at most the deadline of each of them that is left. *)
Theorem a_sweep_says_when s t w s' i n :
  breach s -> bstep s t (End w) s' -> watch w = Some (i, n) -> life s i = n -> live (ph s i) -> left_ w top <= dl s i.
Proof.
  intros R H Wt E Lv. destruct (binv_reach s R) as (F & _ & _ & _ & _ & W). specialize (F t). unfold frames_of in F.
  inversion H; subst. match goal with P : pcs s t = _ |- _ => rewrite P in F; cbn in F end. destruct F as (K & _).
  destruct (W t top w i _ ltac:(match goal with P : pcs s t = _ |- _ => rewrite P end; reflexivity) Wt) as (_ & _ & Y).
  destruct (Y eq_refl Lv) as (_ & (j & J & Nj & X) & _). assert (j = top) as -> by lia.
  match goal with A : all_done w top |- _ => apply (done_left (upto (dl s i)) top w i) in X; trivial; lia end.
Qed.

(** Promise 9. A sweep removes only what is due. *)
Theorem only_what_is_due s t i now_ s' : bstep s t (W2 i now_) s' -> dl s i <= now_.
Proof. intro H. inversion H; subst; assumption. Qed.

End Bounds.

(** The steps lead somewhere: a put stores an entry, a sweep finds it due, removes it, and ends. One slot, one bound. *)
Theorem a_sweep_removes :
  exists s w s', breach 2 9 (fun _ x => x) s /\ bstep 2 9 (fun _ x => x) s 0 (End w) s' /\
    now w = 5 /\ full w = false /\ ph s' 0 = Batch /\ val s' 1 0 = 9.
Proof.
  set (up := fun _ x : nat => x).
  pose (w0 := Sw 5 (fun _ => 0) (fun _ => false) (fun _ => 9) (fun _ _ => false) false (fun _ => false) None).
  pose proof (breach_init 2 9 up) as R.
  Ltac now_step c := match goal with R : breach ?top ?never ?up ?s |- _ =>
    let R' := fresh "R" in epose proof (breach_step top never up s 0 _ _ R ltac:(c)) as R'; clear R end.
  now_step ltac:(apply n1 with (k := 1) (x := 0)).
  now_step ltac:(apply p1 with (i := 0); trivial; intros [| [| k]] K; trivial; lia).
  now_step ltac:(apply p2 with (i := 0) (d := 3); reflexivity).
  now_step ltac:(apply p3 with (i := 0); reflexivity).
  now_step ltac:(eapply p4; reflexivity).
  now_step ltac:(apply begin with (w := w0); trivial; [lia | discriminate]).
  now_step ltac:(eapply w1_first with (k := 1) (x := 0); [reflexivity | lia | reflexivity | reflexivity | reflexivity | vm_compute; lia]).
  now_step ltac:(eapply w4_live with (i := 0); reflexivity).
  now_step ltac:(eapply w5_due; [reflexivity | vm_compute; lia]).
  now_step ltac:(eapply t2_won; reflexivity).
  now_step ltac:(eapply w2; [reflexivity | vm_compute; lia]).
  now_step ltac:(eapply w3; [reflexivity | lia | reflexivity | intros x E; vm_compute in E; subst x; reflexivity]).
  do 3 eexists. split; [eassumption |]. split; [apply ends; [reflexivity | intros x E; vm_compute in E; subst x; reflexivity] |].
  repeat split.
Qed.
