//! The command line of the gateway.

mod demo;
mod load;
mod signals;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use gateway::config::{Behaviour, Config, EngineUrl, StashKind};
use gateway::server::Server;
use tracing_subscriber::EnvFilter;

#[derive(Debug, Parser)]
#[command(about = "An analytics gateway that holds Arrow results in a cloakroom stash")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a burst of clients against a small stash, check everything, print a report.
    Demo,
    /// Compare the stash with one that is put together by hand, under load.
    Load(load::LoadArgs),
    /// Serve on the loopback interface until Ctrl-C or SIGTERM.
    Serve(ServeArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Port to listen on; 0 picks a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Settings with which a person can watch the stash on the page: 4 MiB, waits of 20 s,
    /// and results that expire after 60 s. Each can still be set.
    #[arg(long)]
    small: bool,
    /// What the warehouse does with results that do not go out inline.
    #[arg(long, value_enum, default_value = "classic")]
    warehouse: Behaviour,
    /// Where inline results are kept: cloakroom; or redis://HOST:PORT, a stash that all gateways on that Redis or
    /// Valkey share; or glue, for comparison, which has no limits for owners or the queue.
    #[arg(long, value_name = "KIND", default_value = "cloakroom", value_parser = stash)]
    stash: StashChoice,
    /// Hard limit of the stash, in bytes.
    #[arg(long, default_value_t = Config::default().max_bytes, default_value_if("small", "true", "4194304"), value_parser = clap::value_parser!(u64).range(1..))]
    max_bytes: u64,
    /// How many of them one owner may hold [default: a quarter].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    max_bytes_per_owner: Option<u64>,
    /// How many queries may wait at the same time.
    #[arg(long, default_value_t = 1_000)]
    max_waiting: usize,
    /// How long a stashed result may wait to be fetched, in seconds.
    #[arg(long, default_value_t = Config::default().ttl.as_secs(), default_value_if("small", "true", "60"), value_parser = clap::value_parser!(u64).range(1..))]
    ttl_secs: u64,
    /// How long a query may wait for its bytes in the stash, in milliseconds; 0: not at all.
    #[arg(long, default_value_t = 500, default_value_if("small", "true", "20000"))]
    wait_ms: u64,
    /// How long an external link is good for, in seconds.
    #[arg(long, default_value_t = Config::default().link_ttl.as_secs(), value_parser = clap::value_parser!(u64).range(1..))]
    link_ttl_secs: u64,
    /// Rows of sample data.
    #[arg(long, default_value_t = Config::default().rows)]
    rows: u32,
    /// Database connections, and so queries that run at the same time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..))]
    connections: u8,
    /// Connections that may be open at the same time; more wait to be accepted.
    #[arg(long, default_value_t = Config::default().max_connections as u32, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// How long the head of a request may take, and a connection wait for the next one, in seconds.
    #[arg(long, default_value_t = Config::default().header_timeout.as_secs(), value_parser = clap::value_parser!(u64).range(1..))]
    header_timeout_secs: u64,
    /// How long the body of a request may take, in seconds.
    #[arg(long, default_value_t = Config::default().body_timeout.as_secs(), value_parser = clap::value_parser!(u64).range(1..))]
    body_timeout_secs: u64,
    /// The npm package apache-arrow, its folder or its script in one file: the page decodes Arrow streams
    /// with it, and shows JSON rows without.
    #[arg(long, env = "GATEWAY_APACHE_ARROW")]
    apache_arrow: Option<PathBuf>,
    /// How long results may still be fetched on shutdown, in seconds.
    #[arg(long, default_value_t = Config::default().drain.as_secs())]
    drain_secs: u64,
    /// How long requests in flight may take to end after that, in seconds.
    #[arg(long, default_value_t = Config::default().grace.as_secs())]
    grace_secs: u64,
}

/// The value of `--stash`.
#[derive(Debug, Clone)]
struct StashChoice {
    kind: StashKind,
    engine: Option<EngineUrl>,
}

fn stash(text: &str) -> Result<StashChoice, String> {
    let (kind, engine) = match text {
        "cloakroom" => (StashKind::Cloakroom, None),
        "glue" => (StashKind::Glue, None),
        url => match url.parse() {
            Ok(url) => (StashKind::Shared, Some(url)),
            Err(why) => return Err(format!("cloakroom, glue, or where the engine is: {why}")),
        },
    };
    Ok(StashChoice { kind, engine })
}

impl From<&ServeArgs> for Config {
    fn from(args: &ServeArgs) -> Self {
        Config {
            behaviour: args.warehouse,
            stash: args.stash.kind,
            engine: args.stash.engine.clone(),
            max_bytes: args.max_bytes,
            max_bytes_per_owner: Some(
                args.max_bytes_per_owner.unwrap_or(args.max_bytes.div_ceil(4)),
            ),
            max_waiting: Some(args.max_waiting),
            ttl: Duration::from_secs(args.ttl_secs),
            wait: Duration::from_millis(args.wait_ms),
            link_ttl: Duration::from_secs(args.link_ttl_secs),
            rows: args.rows,
            connections: usize::from(args.connections),
            max_connections: args.max_connections as usize,
            header_timeout: Duration::from_secs(args.header_timeout_secs),
            body_timeout: Duration::from_secs(args.body_timeout_secs),
            apache_arrow: args.apache_arrow.clone(),
            drain: Duration::from_secs(args.drain_secs),
            grace: Duration::from_secs(args.grace_secs),
            ..Config::default()
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let command = Cli::parse().command;
    // Demo and load print what happens. They lose results on purpose.
    let level = if matches!(command, Command::Serve(_)) { "info" } else { "error" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match command {
        Command::Demo => demo::run().await,
        Command::Load(args) => load::run(&args).await,
        Command::Serve(args) => serve(&args).await,
    }
}

/// Succeeds if every request in flight has ended.
async fn serve(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    // Installed before anything is printed, so that a signal never kills the process.
    let stop = signals::Stop::listen()?;
    let server = Server::start(args.into(), args.port).await?;
    println!("serving on http://{0}, and a page to watch it at http://{0}/", server.address());
    stop.requested().await;
    println!("shutting down");
    let shutdown = server.shutdown().await?;
    println!("stopped; {} results were lost", shutdown.lost);
    if shutdown.complete {
        Ok(ExitCode::SUCCESS)
    } else {
        eprintln!("requests were still in flight when the grace period ended");
        Ok(ExitCode::FAILURE)
    }
}
