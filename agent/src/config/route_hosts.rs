//! Which namespaces may ask for which host names: `--route-hosts`.
//!
//! An entry is `NAMESPACE/HOST`. The namespace is a name, or `*` for all. The host is a name; `*.DOMAIN` for every name below
//! a domain; or `auto` for the name that the cluster gives. Without an entry nobody may ask for any.
use std::str::FromStr;

/// Stands for the name that the cluster gives.
pub const AUTO: &str = "auto";

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteHost {
    /// `None` for all.
    namespace: Option<String>,
    host: Pattern,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exactly(String),
    /// With the dot before it.
    Below(String),
}

/// All entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteHosts(pub Vec<RouteHost>);

impl RouteHosts {
    /// Whether Services of a namespace may have a Route for a host.
    ///
    /// # Errors
    /// They may not: what would have to be set.
    pub fn allow(&self, namespace: &str, host: &str) -> Result<(), String> {
        // Host names know no case.
        let host = host.to_ascii_lowercase();
        let admits = |entry: &RouteHost| {
            let is_named = entry.namespace.as_deref().is_none_or(|known| known == namespace);
            is_named
                && match &entry.host {
                    Pattern::Exactly(known) => *known == host,
                    Pattern::Below(domain) => host != AUTO && host.len() > domain.len() && host.ends_with(domain),
                }
        };
        if self.0.iter().any(admits) {
            return Ok(());
        }
        let off = if self.0.is_empty() { "Routes are off" } else { "no entry of --route-hosts admits it" };
        Err(format!(
            "host {host:?} in namespace {namespace}: {off}; want {namespace}/{host} in --route-hosts of the agents"
        ))
    }
}

impl FromStr for RouteHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let want = "want NAMESPACE/HOST, as shop/*.shop.example.com, shop/auto or */*.apps.example.com";
        let (namespace, host) = text.split_once('/').ok_or(want)?;
        let host = host.to_ascii_lowercase();
        let is_name = |name: &str| {
            let is_label = |label: &str| {
                !label.is_empty() && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            };
            name.split('.').all(is_label)
        };
        let (pattern, name) = match host.strip_prefix("*.") {
            Some(domain) => (Pattern::Below(format!(".{domain}")), domain.to_owned()),
            None => (Pattern::Exactly(host.clone()), host),
        };
        if !is_name(&name) || (namespace != "*" && !is_name(namespace)) {
            return Err(format!("{text:?} is none; {want}"));
        }
        Ok(Self { namespace: Some(namespace.to_owned()).filter(|ns| ns != "*"), host: pattern })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(entries: &[&str]) -> RouteHosts {
        RouteHosts(entries.iter().map(|entry| entry.parse().unwrap()).collect())
    }

    #[test]
    fn nobody_may_ask_for_a_host_that_is_not_allowed_to_the_namespace() {
        let none = RouteHosts::default().allow("shop", "a.example").unwrap_err();
        assert_eq!(
            none,
            r#"host "a.example" in namespace shop: Routes are off; want shop/a.example in --route-hosts of the agents"#
        );
        let some = hosts(&["shop/*.shop.example", "shop/auto", "*/open.example", "bank/bank.example"]);
        for (ns, host, is_allowed) in [
            ("shop", "a.shop.example", true),
            ("shop", "A.b.Shop.Example", true),
            ("shop", "shop.example", false),
            ("shop", "ashop.example", false),
            ("shop", ".shop.example.evil.example", false),
            ("shop", "bank.example", false),
            ("shop", "auto", true),
            ("bank", "auto", false),
            ("bank", "bank.example", true),
            ("other", "open.example", true),
            ("other", "a.shop.example", false),
        ] {
            assert_eq!(some.allow(ns, host).is_ok(), is_allowed, "{ns}/{host}");
        }
    }

    #[test]
    fn an_entry_that_says_something_else_than_meant_is_refused() {
        for wrong in
            ["", "shop", "shop/", "/a.example", "shop/*", "shop/*.", "shop/a.*.example", "shop/a..b", "sh*/a.example"]
        {
            assert!(wrong.parse::<RouteHost>().unwrap_err().contains("want NAMESPACE/HOST"), "{wrong}");
        }
    }
}
