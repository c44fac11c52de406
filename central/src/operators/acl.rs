//! `central acl` and `central stores acl`: the users that Redis is to have, as lines to be pasted.

use anyhow::ensure;
use runtime::redis::Keys;
use runtime::redis::acl::{self, Joining};
use runtime::say;

use crate::config::{Acl, StoreAcl};

const CENTRAL: &str = "central";

pub fn of_central(options: &Acl) -> anyhow::Result<()> {
    say!("{}", line(options, CENTRAL, &acl::of_central(&Keys::new(&options.key_prefix), joining(options)))?);
    Ok(())
}

/// `central stores acl`.
pub fn of_store(options: &StoreAcl) -> anyhow::Result<()> {
    let StoreAcl { store, acl: options } = options;
    ensure!(
        options.user.is_some() || ![CENTRAL, "default"].contains(&store.as_str()),
        "{store} is the name of another user in Redis: give this one --user"
    );
    let rules = acl::of_store(&Keys::new(&options.key_prefix), store, joining(options));
    say!("{}", line(options, store.as_str(), &rules)?);
    Ok(())
}

fn joining(options: &Acl) -> Joining {
    if options.stores_known_only { Joining::Listed } else { Joining::Discovered }
}

fn line(options: &Acl, user: &str, rules: &str) -> anyhow::Result<String> {
    let user = options.user.as_deref().unwrap_or(user);
    for (what, name) in [("user", user), ("key prefix", &options.key_prefix)] {
        let plain = |c: char| c.is_ascii_alphanumeric() || ":._-".contains(c);
        ensure!(!name.is_empty() && name.chars().all(plain), "the {what} {name:?} cannot be written in an ACL line");
    }
    let password = match &options.password_file {
        Some(file) => acl::password(&runtime::redis::password_in(file)?),
        None => ">SECRET".to_owned(),
    };
    let begins = if options.for_acl_file { "user" } else { "ACL SETUSER" };
    Ok(format!("{begins} {user} reset on {password} {rules}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(key_prefix: &str, user: Option<&str>) -> Acl {
        Acl {
            key_prefix: key_prefix.to_owned(),
            user: user.map(str::to_owned),
            password_file: None,
            stores_known_only: false,
            for_acl_file: false,
        }
    }

    #[test]
    fn a_line_is_a_command_or_a_line_of_a_file() {
        let command = options("shelf", None);
        assert_eq!(line(&command, "s1", "+time").expect("plain"), "ACL SETUSER s1 reset on >SECRET +time");
        let file = Acl { for_acl_file: true, ..options("shelf", Some("other")) };
        assert_eq!(line(&file, "s1", "+time").expect("plain"), "user other reset on >SECRET +time");
    }

    #[test]
    fn what_would_mean_something_else_in_a_line_is_refused() {
        for bad in ["", "two words", "shelf*", "a?", "[a]", "\"q\"", "a\\", "{x}"] {
            assert!(line(&options(bad, None), "s1", "").is_err(), "{bad}");
            assert!(line(&options("shelf", Some(bad)), "s1", "").is_err(), "{bad}");
        }
        let of =
            |id| StoreAcl { store: protocol::ids::StoreId::parse(id).expect("valid"), acl: options("shelf", None) };
        assert!(of_store(&of("default")).is_err(), "it would take the rights of whoever gives no name");
        assert!(of_store(&of("central")).is_err());
    }
}
