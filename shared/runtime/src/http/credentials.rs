//! Options about tokens: of tools that ask a server with one, and of the tool that makes them.

use std::path::PathBuf;

use anyhow::Context;
use axum::http::{HeaderMap, HeaderValue, header};
use clap::{Args, Subcommand};

use super::tokens::{Scopes, add, name};

/// Options of what asks a running server.
#[derive(Debug, Clone, Args)]
pub struct Secret {
    /// File with the token to ask with, if the server has tokens.
    #[arg(long, env = "TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
}

impl Secret {
    /// The headers of each request.
    ///
    /// # Errors
    /// If the file cannot be read, or holds no token.
    pub fn headers(&self) -> anyhow::Result<HeaderMap> {
        let Some(file) = &self.token_file else { return Ok(HeaderMap::new()) };
        let shown = file.display();
        let token = std::fs::read_to_string(file).with_context(|| format!("cannot read the token in {shown}"))?;
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .with_context(|| format!("there is no token in {shown}"))?;
        value.set_sensitive(true);
        Ok(HeaderMap::from_iter([(header::AUTHORIZATION, value)]))
    }
}

/// The tokens that a server takes.
#[derive(Debug, Clone, Subcommand)]
pub enum TokensCommand {
    /// Make a token, print it, and add it to the file. It can be seen this once: the file has its hash. To take it back
    /// delete its line.
    Add(AddToken),
}

/// Options of `tokens add`.
#[derive(Debug, Clone, Args)]
pub struct AddToken {
    /// Whose it is; stands in events as who asked: 1 to 64 letters, digits, '.', '_', '-' or '@'.
    #[arg(value_parser = name)]
    pub name: String,
    /// What it is good for, separated by commas: read, sell, stock, operate.
    #[arg(long)]
    pub scopes: Scopes,
    /// The file; made if it does not exist.
    #[arg(long, env = "TOKENS_FILE")]
    pub tokens_file: PathBuf,
}

impl TokensCommand {
    /// Does it.
    pub fn run(&self) -> anyhow::Result<()> {
        let Self::Add(AddToken { name, scopes, tokens_file }) = self;
        println!("{}", add(tokens_file, name, *scopes)?);
        eprintln!(
            "That is the token of {name} ({scopes}). It is kept nowhere: {} has its hash.",
            tokens_file.display()
        );
        Ok(())
    }
}
