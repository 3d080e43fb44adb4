//! Names of services: `web`, `tasks.web`, `web.shop.mesh`. In: the route table and a question's name. Out: addresses, the
//! near site's first. The resolver that speaks DNS asks here.

use crate::route::table::RouteTable;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The domain under which every service of the mesh has its name.
pub const DOMAIN: &str = "mesh";

/// Splits a question into the service it asks for: `web`, `tasks.web`, `web.STACK.mesh` (the service `STACK_web`) and
/// `web.mesh`, in any case and with or without the final dot. `None` for a name that is none of ours.
#[must_use]
pub fn service_of(table: &RouteTable, question: &str) -> Option<String> {
    let name = question.trim_end_matches('.').to_ascii_lowercase();
    let name = name.strip_prefix("tasks.").unwrap_or(&name);
    if table.services.contains_key(name) {
        return Some(name.to_owned());
    }
    let inner = name.strip_suffix(DOMAIN)?.strip_suffix('.')?;
    if table.services.contains_key(inner) {
        return Some(inner.to_owned());
    }
    let (service, stack) = inner.rsplit_once('.')?;
    let name = format!("{stack}_{service}");
    table.services.contains_key(&name).then_some(name)
}

/// Returns the addresses behind a name, the near site's first; `None` for a name that is none of ours, an empty list for
/// one of ours without a working instance.
#[must_use]
pub fn resolve(table: &RouteTable, question: &str, near: &str) -> Option<Vec<IpAddr>> {
    let service = service_of(table, question)?;
    let backends = &table.services[&service];
    let here = backends.iter().filter(|backend| backend.site == near);
    let there = backends.iter().filter(|backend| backend.site != near);
    Some(here.chain(there).flat_map(|backend| backend.addresses.iter().copied()).collect())
}

/// Returns every name that the mesh answers to with its addresses: `web`, `tasks.web`, `web.mesh`; for `STACK_web` also
/// `web.STACK.mesh`, and `web` alone while no other service could be meant. A service without a working instance has its
/// names and no address.
#[must_use]
pub fn all<'a>(table: &RouteTable, services: impl Iterator<Item = &'a str>) -> BTreeMap<String, Vec<IpAddr>> {
    let services: BTreeSet<&str> = services.collect();
    let mut short: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut names = BTreeMap::new();
    for service in &services {
        let backends = table.services.get(*service);
        let addresses: Vec<IpAddr> =
            backends.into_iter().flatten().flat_map(|backend| backend.addresses.iter().copied()).collect();
        let mut put = |name: String| {
            names.insert(format!("tasks.{name}"), addresses.clone());
            names.insert(name, addresses.clone());
        };
        let lower = service.to_ascii_lowercase();
        put(lower.clone());
        put(format!("{lower}.{DOMAIN}"));
        if let Some((stack, inner)) = service.split_once('_') {
            put(format!("{inner}.{stack}.{DOMAIN}").to_ascii_lowercase());
            short.entry(inner).or_default().push(service);
        }
    }
    for (inner, owners) in short {
        if let [owner] = owners.as_slice()
            && !services.contains(inner)
            && let Some(addresses) = names.get(&owner.to_ascii_lowercase()).cloned()
        {
            let inner = inner.to_ascii_lowercase();
            names.insert(format!("tasks.{inner}"), addresses.clone());
            names.insert(inner, addresses);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::table::Backend;

    #[test]
    fn a_service_answers_to_all_its_names() {
        let mut table = RouteTable::default();
        let backend = |site: &str, last: u8| Backend {
            instance: last.to_string(),
            node: String::new(),
            site: site.to_owned(),
            addresses: vec![IpAddr::from([10, 0, 0, last])],
        };
        table.services.insert("shop_web".to_owned(), vec![backend("a", 1), backend("b", 2)]);
        for name in ["shop_web", "tasks.shop_web", "web.shop.mesh.", "SHOP_web.mesh", "tasks.web.shop.mesh"] {
            assert_eq!(resolve(&table, name, "b").unwrap(), [IpAddr::from([10, 0, 0, 2]), IpAddr::from([10, 0, 0, 1])]);
        }
        assert_eq!(resolve(&table, "example.com", "a"), None);
    }

    #[test]
    fn a_short_name_is_told_only_while_one_stack_can_be_meant() {
        let table = RouteTable::default();
        let names = all(&table, ["shop_db", "api"].into_iter());
        for name in ["shop_db", "tasks.shop_db", "db.shop.mesh", "db", "api", "tasks.api", "api.mesh"] {
            assert_eq!(names.get(name), Some(&Vec::new()), "{name}");
        }
        assert!(!all(&table, ["shop_db", "blog_db"].into_iter()).contains_key("db"));
    }
}
