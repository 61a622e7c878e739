//! Which flows are asked for: `GET /api/v1/flows?limit=N&client=CIDR&vip=ADDR&service=NAME`.
use std::{collections::BTreeSet, fmt, net::IpAddr};

use ipnet::IpNet;

use crate::{
    datapath::observe::Flow,
    model::{Frontend, Model},
};

/// Flows listed where no limit is given.
const LIMIT: usize = 100;

/// What a flow must be to be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowQuery {
    /// Flows listed at most; all are counted.
    pub limit: usize,
    /// Its client is in this range.
    pub client: Option<IpNet>,
    /// It goes to this address.
    pub vip: Option<IpAddr>,
    /// It goes to this Service, named with or without its namespace.
    pub service: Option<String>,
}

impl Default for FlowQuery {
    fn default() -> Self {
        Self { limit: LIMIT, client: None, vip: None, service: None }
    }
}

impl FlowQuery {
    /// Reads the query of a request.
    ///
    /// # Errors
    /// A parameter is not known, or its value is not.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut found = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let want = |what: &str| format!("{name} {value:?}: want {what}");
            match name {
                "limit" => found.limit = value.parse().map_err(|_| want("a number"))?,
                "client" => found.client = Some(value.parse().map_err(|_| want("a range as 192.0.2.0/24"))?),
                "vip" => found.vip = Some(value.parse().map_err(|_| want("an address"))?),
                "service" => found.service = Some(value.to_owned()),
                _ => return Err(format!("parameter {name:?} is not known here")),
            }
        }
        Ok(found)
    }

    /// Whether a flow is one of those.
    pub fn filter<'a>(&'a self, model: &Model) -> impl Fn(&Flow) -> bool + use<'a> {
        let frontends = self.service.as_deref().map(|name| {
            let is_it = |owner: String| owner == name || owner.rsplit('/').next() == Some(name);
            let of_it = model.frontends.iter().filter(|(_, target)| is_it(target.owner().object.to_string()));
            of_it.map(|(frontend, _)| *frontend).collect::<BTreeSet<Frontend>>()
        });
        let Self { limit: _, client, vip, service: _ } = self;
        move |flow: &Flow| {
            let to = (flow.vip, flow.port, flow.proto);
            client.is_none_or(|range| range.contains(&flow.client))
                && vip.is_none_or(|vip| vip == flow.vip)
                && frontends.as_ref().is_none_or(|all| all.iter().any(|f| (f.vip, f.port.get(), f.proto) == to))
        }
    }
}

impl fmt::Display for FlowQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, client, vip, service } = self;
        write!(f, "limit={limit}")?;
        client.iter().try_for_each(|client| write!(f, "&client={client}"))?;
        vip.iter().try_for_each(|vip| write!(f, "&vip={vip}"))?;
        service.iter().try_for_each(|service| write!(f, "&service={service}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_as_it_is_written() {
        let full = FlowQuery {
            limit: 5,
            client: Some("198.51.100.0/24".parse().unwrap()),
            vip: Some("2001:db8::1".parse().unwrap()),
            service: Some("default/web".to_owned()),
        };
        for query in [FlowQuery::default(), full] {
            assert_eq!(FlowQuery::parse(&query.to_string()), Ok(query));
        }
        assert_eq!(FlowQuery::parse(""), Ok(FlowQuery::default()));
        for (text, want) in
            [("limit=x", "a number"), ("client=web", "a range"), ("vip=x", "an address"), ("a=b", "not known")]
        {
            assert!(FlowQuery::parse(text).unwrap_err().contains(want), "{text}");
        }
    }
}
