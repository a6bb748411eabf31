//! What both stashes must do, or to compare them would say nothing.

mod common;

use std::time::Duration;

use common::{
    BIG, BRIEF, SMALL_STASH, answer, client, eventually, gateway, inline_id, orders, refusal,
    refused, run,
};
use gateway::config::{Behaviour, Config, StashKind};
use gateway::server::Server;
use reqwest::StatusCode;

const BOTH: [StashKind; 2] = [StashKind::Cloakroom, StashKind::Glue];

/// One that has room for one big result and no second.
async fn small(stash: StashKind, adjust: impl FnOnce(&mut Config)) -> Server {
    gateway(|config| {
        config.behaviour = Behaviour::InlineOnly;
        config.max_bytes = SMALL_STASH;
        config.stash = stash;
        adjust(config);
    })
    .await
}

#[tokio::test]
async fn a_result_goes_out_once_and_to_its_owner() {
    for stash in BOTH {
        let server = small(stash, |_| {}).await;
        let (ann, bob) = (client(&server, "ann"), client(&server, "bob"));
        let id = inline_id(answer(&ann, 0, BIG).await);
        assert_eq!(bob.fetch(&id).await.unwrap().status, StatusCode::GONE);
        assert_eq!(ann.fetch(&id).await.unwrap().status, StatusCode::OK);
        assert_eq!(ann.fetch(&id).await.unwrap().status, StatusCode::GONE);
        assert_eq!(ann.fetch("inline-x").await.unwrap().status, StatusCode::NOT_FOUND);
        eventually("it has left", || server.app().inline().usage().used_bytes == 0).await;
    }
}

#[tokio::test]
async fn who_finds_no_room_waits_in_order_and_is_served() {
    for stash in BOTH {
        let server = small(stash, |_| {}).await;
        let usage = || server.app().inline().usage();
        let (holder, ann, bob) =
            (client(&server, "holder"), client(&server, "ann"), client(&server, "bob"));
        let held = inline_id(answer(&holder, 0, BIG).await);
        let large = run(&ann, 0, BIG).await;
        eventually("the large one stands in line", || usage().waiting == 1).await;
        let small = run(&bob, 0, 1).await;
        eventually("the small one stands behind", || usage().waiting == 2).await;
        holder.fetch(&held).await.unwrap();
        for (client, running) in [(&ann, large), (&bob, small)] {
            let id = inline_id(running.answer().await.unwrap());
            assert_eq!(client.fetch(&id).await.unwrap().status, StatusCode::OK);
        }
        eventually("all has left", || usage().used_bytes == 0).await;
    }
}

#[tokio::test]
async fn who_waits_in_vain_or_for_too_much_is_refused_and_not_run() {
    for stash in BOTH {
        for wait in [BRIEF, Duration::ZERO] {
            let server = small(stash, |config| (config.wait, config.rows) = (wait, 2 * BIG)).await;
            inline_id(answer(&client(&server, "holder"), 0, BIG).await);
            let ann = client(&server, "ann");
            let refused = if wait.is_zero() {
                refusal(&ann, "orders", &orders(0, BIG)).await
            } else {
                refused(answer(&ann, 0, BIG).await)
            };
            assert_eq!(
                (refused.status, refused.code.as_str()),
                (503, "INLINE_ARROW_STASH_EXHAUSTED")
            );
            let refused = refusal(&ann, "orders", &orders(0, 2 * BIG)).await;
            assert_eq!(
                (refused.status, refused.code.as_str()),
                (413, "INLINE_ARROW_RESULT_TOO_LARGE")
            );
            assert_eq!(server.app().warehouse().executions().total, 1);
        }
    }
}

#[tokio::test]
async fn who_hangs_up_leaves_the_line() {
    for stash in BOTH {
        let server = small(stash, |_| {}).await;
        let usage = || server.app().inline().usage();
        let holder = client(&server, "holder");
        let held = inline_id(answer(&holder, 0, BIG).await);
        let leaver = run(&client(&server, "leaver"), 0, BIG).await;
        eventually("the leaver stands in line", || usage().waiting == 1).await;
        drop(leaver);
        eventually("the leaver has left", || usage().waiting == 0).await;
        holder.fetch(&held).await.unwrap();
        eventually("nothing is held", || usage().used_bytes == 0).await;
    }
}

#[tokio::test]
async fn what_expires_is_gone_and_its_bytes_are_free_in_time() {
    for stash in BOTH {
        let server = small(stash, |config| config.ttl = BRIEF).await;
        let ann = client(&server, "ann");
        let id = inline_id(answer(&ann, 0, BIG).await);
        tokio::time::sleep(BRIEF).await;
        assert_eq!(ann.fetch(&id).await.unwrap().status, StatusCode::GONE);
        eventually("its bytes are free", || server.app().inline().usage().used_bytes == 0).await;
    }
}

#[tokio::test]
async fn a_shutdown_answers_the_line_and_waits_for_what_is_held() {
    for stash in BOTH {
        let server = small(stash, |_| {}).await;
        let app = std::sync::Arc::clone(server.app());
        let (holder, ann) = (client(&server, "holder"), client(&server, "ann"));
        let held = inline_id(answer(&holder, 0, BIG).await);
        let running = run(&ann, 0, BIG).await;
        eventually("ann stands in line", || app.inline().usage().waiting == 1).await;
        let fetch = async {
            assert_eq!(refused(running.answer().await.unwrap()).code, "SHUTTING_DOWN");
            assert_eq!(holder.fetch(&held).await.unwrap().status, StatusCode::OK);
        };
        let (shutdown, ()) = tokio::join!(server.shutdown(), fetch);
        let shutdown = shutdown.unwrap();
        assert!(shutdown.complete && shutdown.lost == 0, "{shutdown:?}");
    }
}
