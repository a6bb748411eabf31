//! Failover, a cluster that moves its slot, Sentinel: several real engines on loopback.

#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use cloakroom::{Cloakroom, Failure};
use cloakroom_redis::Durability;

use support::audit::audit;
use support::proxy::Proxy;
use support::replica::{Replica, alice, builder};
use support::server::{Server, free_port};
use support::{eventually, payload};

fn replica_of(primary: &Server) -> Server {
    replica_at(primary.port)
}

fn replica_at(port: u16) -> Server {
    let replica = Server::with(&["--replicaof", "127.0.0.1", &port.to_string()]);
    let began = Instant::now();
    while !replica.run::<String>("INFO replication").contains("master_link_status:up") {
        assert!(began.elapsed() < Duration::from_secs(20), "the replica does not connect");
        std::thread::sleep(Duration::from_millis(20));
    }
    replica
}

async fn put(stash: &Replica, size: usize) -> cloakroom::Ticket {
    stash.try_put(alice(), payload(size)).await.unwrap()
}

/// The client knows both; the old primary is gone, the replica has kept up and is promoted.
#[tokio::test]
async fn a_replica_that_kept_up_loses_nothing() {
    let mut primary = Server::start();
    let replica = replica_of(&primary);
    let (first, second) = (primary.url(), replica.url());
    let nodes = [first.as_str(), second.as_str()];
    let stash = builder(&first, "f").nodes(nodes).max_bytes(10_000).open().await.unwrap();
    let mut tickets = Vec::new();
    for size in 1..=20 {
        tickets.push((size, put(&stash, size).await));
    }
    let _: u64 = primary.run("WAIT 1 1000");
    let offset = |server: &Server, field: &str| {
        let info: String = server.run("INFO replication");
        info.lines().find_map(|line| line.strip_prefix(field)).unwrap().to_owned()
    };
    while offset(&primary, "master_repl_offset:") != offset(&replica, "master_repl_offset:") {
        std::thread::sleep(Duration::from_millis(5));
    }
    primary.kill();
    replica.run::<()>("REPLICAOF NO ONE");
    for (size, ticket) in tickets {
        assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(size))));
    }
    let stats = stash.stats().await.unwrap();
    assert_eq!((stats.entries, stats.used_bytes), (0, 0));
    audit(&mut replica.connection(), "f");
}

/// The replica has missed what came last: a prefix of the history, whole in itself.
#[tokio::test]
async fn a_replica_that_did_not_keep_up_has_a_prefix() {
    let mut primary = Server::start();
    let link = Proxy::to(primary.port);
    let replica = replica_at(link.port);
    let (first, second) = (primary.url(), replica.url());
    let nodes = [first.as_str(), second.as_str()];
    let stash = builder(&first, "f").nodes(nodes).max_bytes(1 << 30).open().await.unwrap();
    let early = put(&stash, 10).await;
    let large = put(&stash, 3_000_000).await;
    let delivered = put(&stash, 20).await;
    assert_eq!(primary.run::<u64>("WAIT 1 5000"), 1);
    // Every write was waited for on its own connection: this one's came after them.
    let look = || async { audit(&mut replica.connection(), "f").entries };
    eventually("it has kept up so far", look, |&entries| entries == 3).await;
    link.sever();
    let lost = put(&stash, 30).await;
    assert_eq!(stash.take(&delivered, &alice()).await, Ok(Some(payload(20))));
    assert_eq!(stash.stats().await.unwrap().entries, 3);
    primary.kill();
    replica.run::<()>("REPLICAOF NO ONE");
    assert_eq!(audit(&mut replica.connection(), "f").entries, 3);
    assert_eq!(stash.take(&early, &alice()).await, Ok(Some(payload(10))));
    assert!(stash.take(&large, &alice()).await.unwrap().unwrap() == payload(3_000_000));
    // What `Durability::Primary` does not promise: an acknowledged put is gone, a delivered entry is there again.
    assert_eq!(stash.take(&lost, &alice()).await, Ok(None));
    assert_eq!(stash.take(&delivered, &alice()).await, Ok(Some(payload(20))));
    let stats = stash.stats().await.unwrap();
    assert_eq!((stats.entries, stats.used_bytes), (0, 0));
    audit(&mut replica.connection(), "f");
}

/// With `Replicas(1)`, what was acknowledged is on the replica, and nothing is handed over that is not claimed there.
#[tokio::test]
async fn with_replicas_nothing_acknowledged_is_lost_or_delivered_twice() {
    let mut primary = Server::start();
    let replica = replica_of(&primary);
    let (first, second) = (primary.url(), replica.url());
    let nodes = [first.as_str(), second.as_str()];
    let stash = builder(&first, "f")
        .nodes(nodes)
        .max_bytes(1 << 30)
        .durability(Durability::Replicas(1))
        .open()
        .await
        .unwrap();
    let mut stored = Vec::new();
    let mut taken = Vec::new();
    for size in 1..=30 {
        let ticket = put(&stash, size).await;
        if size % 3 == 0 {
            assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(size))));
            taken.push(ticket);
        } else {
            stored.push((size, ticket));
        }
    }
    // At once: nothing else is waited for.
    primary.kill();
    replica.run::<()>("REPLICAOF NO ONE");
    drop(stash);
    let stash = builder(&second, "f").max_bytes(1 << 30).open().await.unwrap();
    for ticket in taken {
        assert_eq!(stash.take(&ticket, &alice()).await, Ok(None), "delivered twice");
    }
    for (size, ticket) in stored {
        assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(size))), "lost");
    }
    audit(&mut replica.connection(), "f");
}

/// Without a replica, `Replicas(1)` acknowledges nothing and hands nothing over; what was in hand comes back.
#[tokio::test]
async fn without_a_replica_replicas_refuse() {
    let primary = Server::start();
    let open = |durability| {
        builder(&primary.url(), "f")
            .patience(Duration::from_millis(400))
            .durability(durability)
            .open()
    };
    let plain = open(Durability::Primary).await.unwrap();
    let strict = open(Durability::Replicas(1)).await.unwrap();
    let rejected = strict.try_put(alice(), payload(10)).await.unwrap_err();
    assert_eq!(rejected.failure(), Failure::Unreachable);
    assert_eq!(rejected.into_inner(), payload(10));
    let ticket = put(&plain, 50).await;
    assert_eq!(strict.take(&ticket, &alice()).await, Err(Failure::Unreachable));
    let look = || async { plain.take(&ticket, &alice()).await };
    let taken = eventually("put back", look, |taken| matches!(taken, Ok(Some(_)))).await;
    assert_eq!(taken, Ok(Some(payload(50))));
    let look = || async { plain.stats().await.unwrap().used_bytes };
    eventually("the put is undone", look, |&used| used == 0).await;
}

/// The old primary can still be written to after a promotion. `min-replicas-to-write` stops it: measured here.
#[tokio::test]
async fn an_old_primary_that_lives_on_takes_no_writes_with_min_replicas() {
    let primary = Server::with(&["--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"]);
    let replica = replica_of(&primary);
    let patience = Duration::from_millis(500);
    let stash = loop {
        // Until the replica has reported for the first time.
        match builder(&primary.url(), "f").patience(patience).open().await {
            Ok(stash) => break stash,
            Err(error) => assert!(error.to_string().contains("NOREPLICAS"), "{error}"),
        }
    };
    let _ = put(&stash, 10).await;
    replica.run::<()>("REPLICAOF NO ONE");
    let promoted = Instant::now();
    // What the old primary still accepts is lost when it is made a replica.
    let mut accepted = 0;
    let last = loop {
        match stash.try_put(alice(), payload(1)).await {
            Ok(_) => accepted += 1,
            Err(rejected) if rejected.failure() == Failure::Unreachable => break rejected,
            Err(rejected) => panic!("{rejected}"),
        }
        if accepted >= 80 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            break stash.try_put(alice(), payload(1)).await.expect_err("it still accepts");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(promoted.elapsed() < Duration::from_secs(10), "it still accepts");
    };
    println!("accepted {accepted} puts within {:?}", promoted.elapsed());
    assert_eq!(last.into_inner(), payload(1));
}

/// A partition without a reset: no bytes pass, and both connections stand. Measured: what the old primary accepts.
#[tokio::test]
async fn a_partitioned_primary_soon_refuses_and_replicas_refuse_at_once() {
    let primary = Server::with(&["--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"]);
    let partition = Proxy::to(primary.port);
    let replica = replica_at(partition.port);
    let open = |url: String, durability| async move {
        let patience = Duration::from_millis(300);
        loop {
            // Until the replica has reported for the first time.
            let builder = builder(&url, "f").max_bytes(10_000);
            match builder.patience(patience).durability(durability).open().await {
                Ok(stash) => break stash,
                Err(error) => assert!(error.to_string().contains("NOREPLICAS"), "{error}"),
            }
        }
    };
    let plain = open(primary.url(), Durability::Primary).await;
    let strict = open(primary.url(), Durability::Replicas(1)).await;
    let before = put(&strict, 50).await;
    partition.hold_requests();
    partition.drop_replies(true);
    let began = Instant::now();
    let rejected = strict.try_put(alice(), payload(20)).await.unwrap_err();
    assert_eq!(rejected.failure(), Failure::Unreachable, "no replica has received it");
    assert_eq!(rejected.into_inner(), payload(20));
    let mut lost = Vec::new();
    let rejected = loop {
        match plain.try_put(alice(), payload(1)).await {
            Ok(ticket) => lost.push(ticket),
            Err(rejected) => break rejected,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        // The lag, a second until the engine checks it, and the patience of the put that is refused.
        assert!(began.elapsed() < Duration::from_secs(10), "it still accepts");
    };
    assert_eq!(rejected.failure(), Failure::Unreachable);
    println!("accepted {} puts within {:?}", lost.len(), began.elapsed());
    replica.run::<()>("REPLICAOF NO ONE");
    let promoted = builder(&replica.url(), "f").max_bytes(10_000).open().await.unwrap();
    for ticket in &lost {
        assert_eq!(
            promoted.take(ticket, &alice()).await,
            Ok(None),
            "what the old primary accepted"
        );
    }
    assert_eq!(promoted.take(&before, &alice()).await, Ok(Some(payload(50))));
    audit(&mut replica.connection(), "f");
}

fn cli(server: &Server, args: &[&str]) {
    let mut cmd = redis::cmd(args[0]);
    cmd.arg(&args[1..]);
    cmd.exec(&mut server.connection()).unwrap_or_else(|error| panic!("{args:?}: {error}"));
}

/// Three nodes with all slots.
fn cluster() -> Vec<Server> {
    let nodes: Vec<Server> = (0..3)
        .map(|_| {
            Server::on(free_port(), &["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"])
        })
        .collect();
    for (at, node) in nodes.iter().enumerate() {
        let (from, to) = (at * 5462, ((at + 1) * 5462 - 1).min(16383));
        cli(node, &["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
        cli(node, &["CLUSTER", "MEET", "127.0.0.1", &nodes[0].port.to_string()]);
    }
    let began = Instant::now();
    while !nodes.iter().all(|node| node.run::<String>("CLUSTER INFO").contains("cluster_state:ok"))
    {
        assert!(began.elapsed() < Duration::from_secs(20), "the cluster does not form");
        std::thread::sleep(Duration::from_millis(50));
    }
    nodes
}

/// Each node is given alone: all but one of them have to redirect.
#[tokio::test]
async fn any_node_of_a_cluster_leads_to_the_slot() {
    let nodes = cluster();
    for node in &nodes {
        let stash = builder(&node.url(), "anywhere").open().await.unwrap();
        let ticket = put(&stash, 60).await;
        assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(60))));
    }
}

/// The slot moves while a request waits and entries are there. BullMQ's CROSSSLOT (#906): all keys share a slot.
#[tokio::test]
async fn a_cluster_moves_the_slot() {
    let nodes = cluster();
    let urls: Vec<String> = nodes.iter().map(Server::url).collect();
    let slot: usize = nodes[0].run("CLUSTER KEYSLOT ck:{moving}:m");
    let from = (slot / 5462).min(2);
    let to = (from + 1) % 3;
    let stash = builder(&urls[0], "moving")
        .nodes(urls.iter().map(String::as_str))
        .max_bytes(200_000)
        .lease(Duration::from_secs(30))
        .open()
        .await
        .unwrap();
    let small = put(&stash, 100).await;
    let large = put(&stash, 150_000).await;
    let waiter = stash.clone();
    let waiter = tokio::spawn(async move { waiter.put(alice(), payload(60_000)).await });
    let look = || async { stash.stats().await.unwrap().waiting };
    eventually("in the queue", look, |&waiting| waiting == 1).await;
    audit(&mut nodes[from].connection(), "moving");

    let id = |at: usize| nodes[at].run::<String>("CLUSTER MYID");
    let slot_text = slot.to_string();
    cli(&nodes[to], &["CLUSTER", "SETSLOT", &slot_text, "IMPORTING", &id(from)]);
    cli(&nodes[from], &["CLUSTER", "SETSLOT", &slot_text, "MIGRATING", &id(to)]);
    // While it moves no step begins: half of the keys would be missing.
    let during = stash.clone();
    let during = tokio::spawn(async move { during.take(&small, &alice()).await });
    let mut moved = 0;
    loop {
        let keys: Vec<Vec<u8>> = redis::cmd("CLUSTER")
            .arg("GETKEYSINSLOT")
            .arg(slot)
            .arg(3)
            .query(&mut nodes[from].connection())
            .unwrap();
        if keys.is_empty() {
            break;
        }
        moved += keys.len();
        let mut migrate = redis::cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(nodes[to].port).arg("").arg(0).arg(5_000).arg("KEYS");
        migrate.arg(&keys).exec(&mut nodes[from].connection()).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(moved > 5);
    for at in [to, from, 3 - to - from] {
        cli(&nodes[at], &["CLUSTER", "SETSLOT", &slot_text, "NODE", &id(to)]);
    }
    assert_eq!(during.await.unwrap(), Ok(Some(payload(100))));
    assert!(stash.take(&large, &alice()).await.unwrap().unwrap() == payload(150_000));
    let ticket = waiter.await.unwrap().unwrap();
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(60_000))));
    let stats = stash.stats().await.unwrap();
    assert_eq!((stats.entries, stats.used_bytes), (0, 0));
    audit(&mut nodes[to].connection(), "moving");
}

/// A real sentinel promotes the replica when the primary is killed.
#[tokio::test]
async fn sentinel_promotes() {
    let mut primary = Server::start();
    let replica = replica_of(&primary);
    let Some(sentinel) = Sentinel::watch(primary.port) else {
        // Valkey's package ships the server alone; it has the mode, under a name or a flag.
        panic!("the engine has no sentinel mode");
    };
    let url = format!("redis://127.0.0.1:{}", sentinel.server.port);
    let stash = builder(&primary.url(), "f")
        .sentinels([url.as_str()], "main", &primary.url())
        .patience(Duration::from_secs(30))
        .lease(Duration::from_secs(60))
        .durability(Durability::Replicas(1))
        .max_bytes(10_000)
        .open()
        .await
        .unwrap();
    let ticket = put(&stash, 50).await;
    drop(stash);
    let stash = builder(&primary.url(), "f")
        .sentinels([url.as_str()], "main", &primary.url())
        .patience(Duration::from_secs(30))
        .lease(Duration::from_secs(60))
        .max_bytes(10_000)
        .open()
        .await
        .unwrap();
    // The sentinel learns of the replica from the primary.
    let began = Instant::now();
    while !sentinel.knows_a_replica() {
        assert!(began.elapsed() < Duration::from_secs(20), "the sentinel sees no replica");
        std::thread::sleep(Duration::from_millis(100));
    }
    let began = Instant::now();
    primary.kill();
    assert_eq!(stash.take(&ticket, &alice()).await, Ok(Some(payload(50))));
    println!("failed over in {:?}", began.elapsed());
    audit(&mut replica.connection(), "f");
}

struct Sentinel {
    server: Server,
}

impl Sentinel {
    fn watch(primary: u16) -> Option<Self> {
        let port = free_port();
        let dir =
            std::env::temp_dir().join(format!("cloakroom-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let config = dir.join("sentinel.conf");
        std::fs::write(
            &config,
            format!(
                "sentinel monitor main 127.0.0.1 {primary} 1\n\
                 sentinel down-after-milliseconds main 500\n\
                 sentinel failover-timeout main 5000\n"
            ),
        )
        .unwrap();
        let server = Server::sentinel(port, &config);
        Some(Self { server })
    }

    fn knows_a_replica(&self) -> bool {
        let replicas: Vec<redis::Value> = self.server.run("SENTINEL REPLICAS main");
        let text = format!("{replicas:?}");
        replicas.len() == 1 && !text.contains("disconnected") && text.contains("runid")
    }
}
