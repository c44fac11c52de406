//! Options of `store-agent`; each is also an environment variable.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use protocol::ids::StoreId;
use protocol::wire::Position;
use runtime::daemon::LogFormat;
use runtime::http::{Secret, TokensCommand};
use runtime::options::{self, Listen};

/// A store's agent: sells with or without a network, and keeps central up to date.
#[derive(Debug, Parser)]
#[command(name = "store-agent", version)]
pub struct Cli {
    /// What to do; `serve` if nothing is said.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve tills and staff, and keep central up to date.
    Serve(Serve),
    /// Take over a store from what central knows: a new machine, an old copy, or an agent that has stopped itself.
    Restore(Restore),
    /// Write a copy of the database, also while the agent runs.
    Backup(Backup),
    /// Recompute stock, sums, hashes and digest from the ledger, also while the agent runs.
    Verify(Database),
    /// Ask a running agent how it is. Exit status 0: all is well; 1: no agent answers; 3: something needs attention.
    Status(Status),
    /// Have a running agent take in stock from a CSV file.
    Import(Import),
    /// Write a running agent's stock as CSV.
    Export(Export),
    /// Tokens, without which an agent with a `TOKENS_FILE` answers nobody.
    #[command(subcommand)]
    Tokens(TokensCommand),
}

/// Which database.
#[derive(Debug, Clone, Args)]
pub struct Database {
    /// Which store this is: 1 to 50 letters, digits, '.', '_' or '-'.
    #[arg(long, env = "STORE_ID")]
    pub store_id: StoreId,
    /// The database file [default: STORE_ID.db].
    #[arg(long, env = "DATABASE_PATH")]
    pub database_path: Option<PathBuf>,
}

impl Database {
    /// Where it is.
    pub fn path(&self) -> PathBuf {
        path_of(&self.store_id, self.database_path.as_ref())
    }
}

/// Options of `store-agent restore`. The agent must not be running.
#[derive(Debug, Clone, Args)]
pub struct Restore {
    /// Which database.
    #[command(flatten)]
    pub database: Database,
    /// Address of central, such as http://central:8081.
    #[arg(long, env = "CENTRAL_URL")]
    pub central: String,
    /// What central is asked with.
    #[command(flatten)]
    pub secret: Secret,
    /// Where Redis is and how it is reached; what this store still has there is taken back if it answers.
    #[command(flatten)]
    pub redis: runtime::redis::Options,
    /// Prefix of all Redis keys.
    #[arg(long, env = "KEY_PREFIX", default_value = "shelf", value_parser = options::key_prefix)]
    pub key_prefix: String,
    /// A backup to go on from; a database that is there is kept under another name. Without it the database is taken as it
    /// is: old, copied, stopped, damaged or not there at all.
    #[arg(long)]
    pub from: Option<PathBuf>,
    /// Which state stands if central knows nothing of this database.
    #[arg(long, value_enum)]
    pub state: Option<State>,
}

/// Whose state stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum State {
    /// This database's; central takes it over.
    Own,
    /// Central's; this database's entries are left out.
    Central,
}

/// Options of `store-agent backup`.
#[derive(Debug, Clone, Args)]
pub struct Backup {
    /// Which database.
    #[command(flatten)]
    pub database: Database,
    /// The file to write; it must not exist.
    #[arg(long)]
    pub to: PathBuf,
}

/// Options of `store-agent status`.
#[derive(Debug, Clone, Args)]
pub struct Status {
    /// Address of the agent.
    #[arg(long, env = "AGENT_URL", default_value = "http://127.0.0.1:8082", value_parser = options::url)]
    pub url: String,
    /// What the agent is asked with.
    #[command(flatten)]
    pub secret: Secret,
    /// Print what the agent says as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `store-agent import`.
#[derive(Debug, Clone, Args)]
pub struct Import {
    /// The file; it must be compressed with gzip if its name ends in `.gz`.
    pub file: PathBuf,
    /// Only say what would change.
    #[arg(long)]
    pub dry_run: bool,
    /// Where the store's ledger stood (Shelf-Position) when the counts were true: what was sold since is taken off. To send
    /// a file again: what the import said when it began [default: where it stands now].
    #[arg(long, value_name = "POSITION")]
    pub counted_at: Option<Position>,
    /// Address of the agent.
    #[arg(long, env = "AGENT_URL", default_value = "http://127.0.0.1:8082", value_parser = options::url)]
    pub url: String,
    /// What the agent is asked with.
    #[command(flatten)]
    pub secret: Secret,
}

/// Options of `store-agent export`.
#[derive(Debug, Clone, Args)]
pub struct Export {
    /// The file to write, which must not exist; else standard output.
    #[arg(long)]
    pub to: Option<PathBuf>,
    /// Address of the agent.
    #[arg(long, env = "AGENT_URL", default_value = "http://127.0.0.1:8082", value_parser = options::url)]
    pub url: String,
    /// What the agent is asked with.
    #[command(flatten)]
    pub secret: Secret,
}

fn path_of(store: &StoreId, given: Option<&PathBuf>) -> PathBuf {
    given.cloned().unwrap_or_else(|| PathBuf::from(format!("{store}.db")))
}

/// Options of `store-agent serve`.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Which store this is: 1 to 50 letters, digits, '.', '_' or '-'.
    #[arg(long, env = "STORE_ID")]
    pub store_id: StoreId,
    /// Where Redis is and how it is reached.
    #[command(flatten)]
    pub redis: runtime::redis::Options,
    /// The database file; made if it does not exist [default: STORE_ID.db].
    #[arg(long, env = "DATABASE_PATH")]
    pub database_path: Option<PathBuf>,
    /// Address to listen on, such as localhost:8082; :8082 means all IPv4 addresses; port 0 takes any free one.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8082")]
    pub listen: Listen,
    /// A file to write the address and this process's id to once it serves, for whoever started it.
    #[arg(long, env = "ADDRESS_FILE")]
    pub address_file: Option<PathBuf>,
    /// Prefix of all Redis keys.
    #[arg(long, env = "KEY_PREFIX", default_value = "shelf", value_parser = options::key_prefix)]
    pub key_prefix: String,
    /// Between two heartbeats, ms.
    #[arg(long, env = "HEARTBEAT_INTERVAL_MS", default_value_t = 30_000, value_parser = options::ms::<10>)]
    pub heartbeat_interval_ms: u64,
    /// Behind what is received, a count and an online purchase, so much of an item's quantity is set aside for online sale, percent.
    #[arg(long, env = "ALLOT_PERCENT", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..=100))]
    pub allot_percent: i64,
    /// Likewise so many units at least, as far as they are there.
    #[arg(long, env = "ALLOT_MINIMUM", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..=1_000_000_000))]
    pub allot_minimum: i64,
    /// Origins whose pages may use this API from a browser, separated by commas.
    #[arg(long, env = "CORS_ORIGINS", value_delimiter = ',', value_parser = options::origin)]
    pub cors_origins: Vec<String>,
    /// Host names under which this server may be addressed, besides IP addresses and localhost, separated by commas.
    #[arg(long, env = "ALLOWED_HOSTS", value_delimiter = ',', value_parser = options::host_name)]
    pub allowed_hosts: Vec<String>,
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

impl Serve {
    /// Where the database is.
    pub fn database(&self) -> PathBuf {
        path_of(&self.store_id, self.database_path.as_ref())
    }
}
