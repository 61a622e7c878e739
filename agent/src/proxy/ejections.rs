//! Which endpoints are passed over now, and why: for people, `sluice routes`, `why` and `explain`.
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;

use super::{
    balance::{Ejected, Moment},
    table::Table,
};

/// The ejected endpoints, whenever somebody looks.
#[derive(Clone, Debug)]
pub struct Ejections(Arc<ArcSwap<Table>>);

impl Ejections {
    /// Those of this table.
    pub(super) fn of(table: &Arc<ArcSwap<Table>>) -> Self {
        Self(Arc::clone(table))
    }

    /// Those that are ejected now, each with a reason in words.
    #[must_use]
    pub fn now(&self) -> BTreeMap<SocketAddr, String> {
        let (table, now) = (self.0.load(), Moment::now());
        table.upstreams().filter_map(|u| Some((u.addr, sentence(u.vital.ejected(now)?)))).collect()
    }
}

fn sentence(ejected: Ejected) -> String {
    let Ejected { cause, left, times } = ejected;
    let often = if times > 1 { format!(", {times} times in a row") } else { String::new() };
    match left {
        Some(left) => format!("{cause}{often}; tried again in {:.1} s", left.as_secs_f32()),
        None => format!("{cause}{often}; the next request tries it again"),
    }
}
