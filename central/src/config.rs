//! Options of `central`; each is also an environment variable.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand};
use protocol::ids::StoreId;
use runtime::daemon::LogFormat;
use runtime::http::{Secret, TokensCommand};
use runtime::options::{self, Listen};

/// Central of a chain of stores: the global view of their stock, and online purchases that the stores confirm.
#[derive(Debug, Parser)]
#[command(name = "central", version)]
pub struct Cli {
    /// What to do; `serve` if nothing is said.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Follow the stores and answer requests.
    Serve(Serve),
    /// Go on from a backup: every store gets a new command epoch, and tells again what the backup does not know.
    Restore(Restore),
    /// Write a copy of the database, also while central runs.
    Backup(Backup),
    /// Recompute the view, totals, hashes and digests from the stores' ledgers, also while central runs.
    Verify(Database),
    /// Ask a running central how its stores are. Exit status 0: all is well; 1: no central answers; 3: something needs
    /// attention.
    Status(Report),
    /// Print the line that makes central's user in Redis, with the rights that it needs.
    Acl(Acl),
    /// Which stores there are, and the rights of each.
    #[command(subcommand)]
    Stores(Stores),
    /// Tokens, without which a central with a `TOKENS_FILE` answers nobody.
    #[command(subcommand)]
    Tokens(TokensCommand),
}

/// Which stores there are, and the rights of each.
#[derive(Debug, Subcommand)]
pub enum Stores {
    /// All stores, and ids that were entered in Redis and are none.
    List(Status),
    /// Make a store known before its agent was heard.
    Add(OneStore),
    /// Forget a store that has never sent an event; one that has is retired instead.
    Forget(OneStore),
    /// Print the line that makes the user of a store's agent in Redis, with the rights that it needs.
    Acl(StoreAcl),
}

/// Options of `central stores add` and `forget`.
#[derive(Debug, Clone, Args)]
pub struct OneStore {
    /// The store's id.
    pub store: StoreId,
    /// Which central.
    #[command(flatten)]
    pub central: Status,
}

/// Which database.
#[derive(Debug, Clone, Args)]
pub struct Database {
    /// The database file.
    #[arg(long, env = "DATABASE_PATH", default_value = "central.db")]
    pub database_path: PathBuf,
}

/// Options of `central restore`. Central must not be running.
#[derive(Debug, Clone, Args)]
pub struct Restore {
    /// Which database.
    #[command(flatten)]
    pub database: Database,
    /// The backup to go on from; a database that is there is kept under another name. Without it the database is taken
    /// to be an older copy that was put back already.
    #[arg(long)]
    pub from: Option<PathBuf>,
    /// Where Redis is and how it is reached; what the stores have acknowledged is looked up there if it answers.
    #[command(flatten)]
    pub redis: runtime::redis::Options,
    /// Prefix of all Redis keys.
    #[arg(long, env = "KEY_PREFIX", default_value = "shelf", value_parser = options::key_prefix)]
    pub key_prefix: String,
}

/// Options of `central backup`.
#[derive(Debug, Clone, Args)]
pub struct Backup {
    /// Which database.
    #[command(flatten)]
    pub database: Database,
    /// The file to write; it must not exist.
    #[arg(long)]
    pub to: PathBuf,
}

/// Options of what speaks to a running central.
#[derive(Debug, Clone, Args)]
pub struct Status {
    /// Address of central.
    #[arg(long, env = "CENTRAL_URL", default_value = "http://127.0.0.1:8081", value_parser = options::url)]
    pub url: String,
    /// What it is asked with.
    #[command(flatten)]
    pub secret: Secret,
}

/// Options of `central status`.
#[derive(Debug, Clone, Args)]
pub struct Report {
    /// Which central.
    #[command(flatten)]
    pub central: Status,
    /// Print what central says of its stores as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `central acl`.
#[derive(Debug, Clone, Args)]
pub struct Acl {
    /// Prefix of all Redis keys.
    #[arg(long, env = "KEY_PREFIX", default_value = "shelf", value_parser = options::key_prefix)]
    pub key_prefix: String,
    /// Name of the user [default: central, or the store's id].
    #[arg(long)]
    pub user: Option<String>,
    /// File with the user's password, whose hash is printed; else SECRET stands in its place.
    #[arg(long)]
    pub password_file: Option<PathBuf>,
    /// For a central that does not discover stores: without the rights to the set of all stores.
    #[arg(long, env = "STORES_KNOWN_ONLY", value_parser = BoolishValueParser::new())]
    pub stores_known_only: bool,
    /// Print a line of an ACL file instead of a command.
    #[arg(long)]
    pub for_acl_file: bool,
}

/// Options of `central stores acl`.
#[derive(Debug, Clone, Args)]
pub struct StoreAcl {
    /// Whose agent.
    pub store: StoreId,
    /// How the line is to be.
    #[command(flatten)]
    pub acl: Acl,
}

/// Options of `central serve`.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Where Redis is and how it is reached.
    #[command(flatten)]
    pub redis: runtime::redis::Options,
    /// The database file; made if it does not exist.
    #[arg(long, env = "DATABASE_PATH", default_value = "central.db")]
    pub database_path: PathBuf,
    /// Address to listen on, such as localhost:8081; :8081 means all IPv4 addresses; port 0 takes any free one.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8081")]
    pub listen: Listen,
    /// A file to write the address and this process's id to once it serves, for whoever started it.
    #[arg(long, env = "ADDRESS_FILE")]
    pub address_file: Option<PathBuf>,
    /// Prefix of all Redis keys.
    #[arg(long, env = "KEY_PREFIX", default_value = "shelf", value_parser = options::key_prefix)]
    pub key_prefix: String,
    /// A store whose heartbeat is older gets no remote purchases, ms.
    #[arg(long, env = "HEARTBEAT_MAX_AGE_MS", default_value_t = 50_000, value_parser = options::ms::<100>)]
    pub heartbeat_max_age_ms: u64,
    /// Sell what a store has set aside for online sale although nothing was heard of it for too long; nothing else.
    #[arg(long, env = "SELL_ALLOTMENT_OFFLINE", value_parser = BoolishValueParser::new())]
    pub sell_allotment_offline: bool,
    /// How often all known stores are looked at even when nobody rang, ms.
    #[arg(long, env = "SWEEP_INTERVAL_MS", default_value_t = 2_000, value_parser = options::ms::<10>)]
    pub sweep_interval_ms: u64,
    /// Look for no new stores: those there are were added by `central stores add`.
    #[arg(long, env = "STORES_KNOWN_ONLY", value_parser = BoolishValueParser::new())]
    pub stores_known_only: bool,
    /// Origins whose pages may use this API from a browser, separated by commas.
    #[arg(long, env = "CORS_ORIGINS", value_delimiter = ',', value_parser = options::origin)]
    pub cors_origins: Vec<String>,
    /// Host names under which this server may be addressed, besides IP addresses and localhost, separated by commas.
    #[arg(long, env = "ALLOWED_HOSTS", value_delimiter = ',', value_parser = options::host_name)]
    pub allowed_hosts: Vec<String>,
    /// Webhooks may also use plain http and go to addresses that are not public.
    #[arg(long, env = "WEBHOOK_ALLOW_PRIVATE", value_parser = BoolishValueParser::new())]
    pub webhook_allow_private: bool,
    /// File with the tokens that callers need, as `tokens add` makes it; read again when it changes. Without it whoever
    /// reaches this server may do all.
    #[arg(long, env = "TOKENS_FILE")]
    pub tokens_file: Option<PathBuf>,
    /// Requests a second that one caller may make, 1 to 1,000,000: a token, or without tokens an address [default: any
    /// number].
    #[arg(long, env = "RATE_LIMIT", value_parser = options::rate)]
    pub rate_limit: Option<NonZeroU32>,
    /// Form of the log on standard error.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}
