//! Certificates for a Redis that speaks TLS, made anew for each test.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// Files in PEM. The server is called `127.0.0.1` and nothing else.
#[derive(Debug)]
pub struct Certificates {
    /// Who signed the server's and the client's certificate.
    pub ca: PathBuf,
    /// Who signed neither.
    pub other_ca: PathBuf,
    /// The client's certificate.
    pub client: PathBuf,
    pub client_key: PathBuf,
    server: PathBuf,
    server_key: PathBuf,
}

impl Certificates {
    /// Makes them in a directory.
    pub fn make(dir: &Path) -> Self {
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("a file is written");
            path
        };
        let (ca, issuer) = authority("the test's CA");
        let (other_ca, _) = authority("another CA");
        let (server, server_key) = signed("127.0.0.1", &issuer);
        let (client, client_key) = signed("client", &issuer);
        Self {
            ca: write("ca.pem", ca),
            other_ca: write("other-ca.pem", other_ca),
            server: write("server.pem", server),
            server_key: write("server-key.pem", server_key),
            client: write("client.pem", client),
            client_key: write("client-key.pem", client_key),
        }
    }

    /// What `redis-server` is told: it asks every client for a certificate.
    pub(crate) fn server_options(&self) -> Vec<String> {
        let files =
            [("--tls-cert-file", &self.server), ("--tls-key-file", &self.server_key), ("--tls-ca-cert-file", &self.ca)];
        let files = files.into_iter().flat_map(|(option, file)| [option.to_owned(), file.display().to_string()]);
        files.chain(["--tls-auth-clients", "yes"].map(str::to_owned)).collect()
    }

    /// What a daemon is told.
    pub(crate) fn client_options(&self) -> Vec<String> {
        self.variables().map(|(name, file)| format!("--{}={file}", name.to_lowercase().replace('_', "-"))).into()
    }

    /// The same as environment variables.
    pub(crate) fn variables(&self) -> [(&'static str, String); 3] {
        let files =
            [("REDIS_CA_FILE", &self.ca), ("REDIS_CERT_FILE", &self.client), ("REDIS_KEY_FILE", &self.client_key)];
        files.map(|(name, file)| (name, file.display().to_string()))
    }
}

fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.pem(), Issuer::new(params, key))
}

fn signed(name: &str, issuer: &Issuer<'_, KeyPair>) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}
