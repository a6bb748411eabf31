//! What happens to a result for which the stash has no room.

mod common;

use std::time::Duration;

use common::{
    BIG, BRIEF, answer, client, eventually, external, full_gateway, gateway, inline_id, orders,
    refusal, refused, run,
};
use gateway::check::Totals;
use gateway::config::Behaviour;
use gateway::warehouse::Executions;
use reqwest::StatusCode;

#[tokio::test]
async fn a_query_waits_in_line_until_there_is_room_and_runs_then() {
    let (server, held) = full_gateway(Behaviour::InlineOnly, common::FOREVER).await;
    let ann = client(&server, "ann");
    let running = run(&ann, 500, BIG).await;
    eventually("the query stands in line", || server.app().inline().usage().waiting == 1).await;
    assert_eq!(server.app().warehouse().executions().total, 1);

    assert_eq!(client(&server, "holder").fetch(&held).await.unwrap().status, StatusCode::OK);
    let id = inline_id(running.answer().await.unwrap());
    let fetched = ann.fetch(&id).await.unwrap();
    let expected = Totals::of_database(&server.app().database(), 500, BIG).unwrap();
    assert_eq!(Totals::of_stream(&fetched.body).unwrap(), expected);

    let metrics = server.app().metrics();
    assert_eq!((metrics.room_at_once.get(), metrics.room_after_wait.get()), (1, 1));
    assert_eq!((metrics.waits().len(), metrics.timed_out.get()), (1, 0));
    assert_eq!(server.app().inline().usage().used_bytes, 0);
}

#[tokio::test]
async fn on_classic_a_result_without_room_goes_out_by_link_and_nothing_runs_twice() {
    for wait in [BRIEF, Duration::ZERO] {
        let (server, held) = full_gateway(Behaviour::Classic, wait).await;
        let ann = client(&server, "ann");
        let running = run(&ann, 0, BIG).await;
        let statement = running.statement.clone();
        let (id, _) = external(running.answer().await.unwrap());
        assert_eq!(id, statement);
        assert_eq!(
            server.app().warehouse().executions(),
            Executions { total: 2, statements: 2, most: 1 }
        );
        assert_eq!(server.app().metrics().fallbacks.get(), 1);

        // The same rows as the result that is held, so byte for byte the same stream.
        let by_link = ann.fetch(&id).await.unwrap();
        let inline = client(&server, "holder").fetch(&held).await.unwrap();
        assert_eq!((by_link.status, inline.status), (StatusCode::OK, StatusCode::OK));
        assert_eq!(by_link.body, inline.body);
    }
}

#[tokio::test]
async fn on_inline_only_the_refusal_is_stable_and_says_when_to_come_back() {
    let (server, held) = full_gateway(Behaviour::InlineOnly, BRIEF).await;
    let ann = client(&server, "ann");
    let refusal = refused(answer(&ann, 0, BIG).await);
    assert_eq!((refusal.status, refusal.code.as_str()), (503, "INLINE_ARROW_STASH_EXHAUSTED"));
    assert_eq!(refusal.retry_after(), Some(BRIEF));
    // Only the one that is held: without room nothing is run.
    assert_eq!(
        server.app().warehouse().executions(),
        Executions { total: 1, statements: 1, most: 1 }
    );
    assert_eq!(
        (server.app().metrics().refusals.get(), server.app().metrics().fallbacks.get()),
        (1, 0)
    );

    client(&server, "holder").fetch(&held).await.unwrap();
    inline_id(answer(&ann, 0, BIG).await);
}

/// Otherwise clients that obey the delay ask again without a pause.
#[tokio::test]
async fn where_no_query_waits_a_client_comes_back_after_a_second() {
    let (server, _held) = full_gateway(Behaviour::InlineOnly, Duration::ZERO).await;
    let refusal = refusal(&client(&server, "ann"), "orders", &orders(0, BIG)).await;
    assert_eq!((refusal.status, refusal.code.as_str()), (503, "INLINE_ARROW_STASH_EXHAUSTED"));
    assert_eq!(refusal.retry_after(), Some(Duration::from_secs(1)));
}

#[tokio::test]
async fn a_result_that_never_fits_does_not_wait() {
    for behaviour in [Behaviour::Classic, Behaviour::InlineOnly] {
        let server = gateway(|config| {
            config.behaviour = behaviour;
            config.max_bytes = 10_000;
        })
        .await;
        let ann = client(&server, "ann");
        match behaviour {
            Behaviour::Classic => {
                let answer = answer(&ann, 0, BIG).await;
                let fetched = ann.fetch(&external(answer).0).await.unwrap();
                assert_eq!(Totals::of_stream(&fetched.body).unwrap().rows, i64::from(BIG));
            }
            Behaviour::InlineOnly => {
                let refusal = refusal(&ann, "orders", &orders(0, BIG)).await;
                assert_eq!(
                    (refusal.status, refusal.code.as_str()),
                    (413, "INLINE_ARROW_RESULT_TOO_LARGE")
                );
                assert_eq!(refusal.retry_after(), None);
                assert_eq!(server.app().warehouse().executions().total, 0);
            }
        }
        assert_eq!(server.app().metrics().too_large.get(), 1);
    }
}

#[tokio::test]
async fn who_hangs_up_leaves_the_line() {
    let (server, held) = full_gateway(Behaviour::InlineOnly, common::FOREVER).await;
    let usage = || server.app().inline().usage();
    let leaver = run(&client(&server, "leaver"), 0, BIG).await;
    eventually("the leaver stands in line", || usage().waiting == 1).await;
    let ann = client(&server, "ann");
    let running = run(&ann, 0, BIG).await;
    eventually("ann stands behind", || usage().waiting == 2).await;

    drop(leaver);
    eventually("the leaver has left", || usage().waiting == 1).await;
    eventually("it was noticed", || server.app().metrics().left_the_line.get() == 1).await;

    client(&server, "holder").fetch(&held).await.unwrap();
    let id = inline_id(running.answer().await.unwrap());
    assert_eq!(ann.fetch(&id).await.unwrap().status, StatusCode::OK);
    assert_eq!((usage().used_bytes, usage().entries, usage().waiting), (0, 0, 0));
}

#[tokio::test]
async fn a_small_result_does_not_overtake_a_large_one() {
    let (server, held) = full_gateway(Behaviour::InlineOnly, common::FOREVER).await;
    let usage = || server.app().inline().usage();
    let (ann, bob) = (client(&server, "ann"), client(&server, "bob"));
    let large = run(&ann, 0, BIG).await;
    eventually("the large one stands in line", || usage().waiting == 1).await;
    // There is room for it, and someone before it.
    let small = run(&bob, 0, 1).await;
    eventually("the small one stands behind", || usage().waiting == 2).await;

    client(&server, "holder").fetch(&held).await.unwrap();
    for (client, running) in [(&ann, large), (&bob, small)] {
        let id = inline_id(running.answer().await.unwrap());
        assert_eq!(client.fetch(&id).await.unwrap().status, StatusCode::OK);
    }
    assert_eq!(usage().used_bytes, 0);
}
