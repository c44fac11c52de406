//! How Redis is reached: address, password, TLS. Every connection of both servers and of their tools begins here.
//!
//! **Guarantees.** What is wrong with an option or a file is said at the start. Under `rediss://` the server's certificate
//! must be signed by the CA and must name the host, always: nothing switches that off. No error tells a secret.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::redis::aio::{MultiplexedConnection, PubSub};
use ::redis::io::tcp::TcpSettings;
use ::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, RedisError, RedisResult,
    TlsCertificates,
};
use anyhow::{Context, bail, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How long a call may take before its connection is given up. Far above any healthy answer, so that a connection that
/// is open at one end only is noticed soon.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long connecting may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Where Redis is and how it is reached.
#[derive(Clone, clap::Args)]
pub struct Options {
    /// Address of Redis, such as redis://user:password@host:6379; rediss:// for TLS.
    #[arg(
        id = "redis_url",
        long = "redis-url",
        env = "REDIS_URL",
        default_value = "redis://127.0.0.1:6379",
        hide_env_values = true
    )]
    pub url: String,
    /// File with the password of the address's user.
    #[arg(id = "redis_password_file", long = "redis-password-file", env = "REDIS_PASSWORD_FILE")]
    pub password_file: Option<PathBuf>,
    /// With rediss://: file with the CAs (PEM), one of which must have signed the server's certificate [default: the
    /// public CAs that Mozilla trusts].
    #[arg(id = "redis_ca_file", long = "redis-ca-file", env = "REDIS_CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// With rediss://: file with the own certificate (PEM), if the server asks for one.
    #[arg(id = "redis_cert_file", long = "redis-cert-file", env = "REDIS_CERT_FILE", requires = "redis_key_file")]
    pub cert_file: Option<PathBuf>,
    /// With rediss://: file with the key of the own certificate (PEM).
    #[arg(id = "redis_key_file", long = "redis-key-file", env = "REDIS_KEY_FILE", requires = "redis_cert_file")]
    pub key_file: Option<PathBuf>,
}

impl Options {
    /// An address and nothing else.
    pub fn at(url: &str) -> Self {
        Self { url: url.to_owned(), password_file: None, ca_file: None, cert_file: None, key_file: None }
    }
}

impl fmt::Debug for Options {
    /// Without the address: a password may be in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").finish_non_exhaustive()
    }
}

/// A client, with `TCP_NODELAY`. Files are read now; one that is replaced later counts from the next start on.
pub fn client(options: &Options) -> anyhow::Result<Client> {
    // What the library says of one that is none is its own words.
    let info = options.url.as_str().into_connection_info().ok();
    let info = info.context("REDIS_URL must be an address of Redis, such as redis://127.0.0.1:6379")?;
    // `CLIENT SETINFO` tells nothing that is needed, and an ACL user would need the right to it.
    let mut settings = info.redis_settings().clone().set_skip_set_lib_name();
    if let Some(file) = &options.password_file {
        ensure!(settings.password().is_none(), "there is a password in REDIS_URL and a REDIS_PASSWORD_FILE: give one");
        settings = settings.set_password(password_in(file)?);
    }
    if let (Some(user), None) = (settings.username(), settings.password()) {
        bail!("REDIS_URL names the user {user}, but there is no password: give REDIS_PASSWORD_FILE");
    }
    let info = info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
    match info.addr() {
        ConnectionAddr::TcpTls { insecure: true, .. } => {
            bail!("REDIS_URL ends in #insecure: certificates are always checked; give REDIS_CA_FILE")
        }
        ConnectionAddr::TcpTls { .. } => Ok(Client::build_with_tls(info, certificates(options)?)?),
        _ if options.ca_file.is_some() || options.cert_file.is_some() => {
            bail!("there are certificates, but REDIS_URL asks for no TLS: it must begin with rediss://")
        }
        _ => Ok(Client::open(info)?),
    }
}

/// The password in a file: its content without the end of the line.
pub fn password_in(file: &Path) -> anyhow::Result<String> {
    let text =
        fs::read_to_string(file).with_context(|| format!("the password file {} cannot be read", file.display()))?;
    let password = text.trim_end_matches(['\r', '\n']);
    ensure!(!password.is_empty(), "the password file {} is empty", file.display());
    Ok(password.to_owned())
}

/// The files' content, known to be what they should be.
fn certificates(options: &Options) -> anyhow::Result<TlsCertificates> {
    // The one cryptography there is. Who embeds this may have installed it, or another.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut roots = rustls::RootCertStore::empty();
    if let Some(file) = &options.ca_file {
        for certificate in certificates_in(file)? {
            roots.add(certificate).with_context(|| format!("{} holds something else than CAs", file.display()))?;
        }
    }
    if let (Some(cert_file), Some(key_file)) = (&options.cert_file, &options.key_file) {
        let key = PrivateKeyDer::from_pem_slice(&read(key_file)?)
            .with_context(|| format!("{} holds no key in PEM", key_file.display()))?;
        rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates_in(cert_file)?, key)
            .with_context(|| format!("{} and {} do not fit", cert_file.display(), key_file.display()))?;
    }
    let content = |file: &Option<PathBuf>| file.as_deref().map(read).transpose();
    let client_tls = content(&options.cert_file)?
        .zip(content(&options.key_file)?)
        .map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    Ok(TlsCertificates { client_tls, root_cert: content(&options.ca_file)? })
}

fn certificates_in(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("{} is not in PEM", file.display()))?;
    ensure!(!found.is_empty(), "{} holds no certificate in PEM", file.display());
    Ok(found)
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("{} cannot be read", file.display()))
}

/// A new connection; calls on it fail after [`RESPONSE_TIMEOUT`].
pub async fn connect(client: &Client) -> RedisResult<MultiplexedConnection> {
    connect_for(client, RESPONSE_TIMEOUT).await
}

/// A new connection for blocking reads of up to `block`.
pub async fn connect_blocking(client: &Client, block: Duration) -> RedisResult<MultiplexedConnection> {
    connect_for(client, block + RESPONSE_TIMEOUT).await
}

async fn connect_for(client: &Client, response: Duration) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(Some(response));
    reach(client, client.get_multiplexed_async_connection_with_config(&config)).await
}

/// A new connection that hears what is published to channels of this pattern.
pub async fn subscribe(client: &Client, pattern: &str) -> RedisResult<PubSub> {
    reach(client, async {
        let mut bells = client.get_async_pubsub().await?;
        bells.psubscribe(pattern).await?;
        Ok(bells)
    })
    .await
}

/// Bounds connecting in time, and says what to look at where the error alone does not.
async fn reach<T>(client: &Client, connecting: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let says = |text: String| RedisError::from(io::Error::other(text));
    let tls = matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. });
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Err(error)) => Err(match error.to_string() {
            text if text.contains("UnknownIssuer") => says(format!("{text}: no CA in REDIS_CA_FILE has signed it")),
            text if text.contains("CertificateRequired") => {
                says(format!("{text}: Redis asks for a certificate, REDIS_CERT_FILE and REDIS_KEY_FILE"))
            }
            text if !tls && error.is_connection_dropped() && !error.is_connection_refusal() => {
                says(format!("{text}: if Redis speaks TLS there, REDIS_URL must begin with rediss://"))
            }
            _ => error,
        }),
        Ok(connected) => connected,
        // A server that speaks no TLS waits for the end of a line.
        Err(_) if tls => Err(says("connecting timed out: does Redis speak TLS there?".to_owned())),
        Err(_) => Err(says("connecting timed out".to_owned())),
    }
}
