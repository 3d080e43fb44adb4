//! Published port → instances, on every node the same. In: services, instances, nodes. Out: an ordered table to compare
//! with the last one and hand to the data path. Never asks who sent an event.

use crate::model::{InstanceRow, Liveness, Node, NodeId, ServiceRow};
use crate::service::{Port, PortMode, Protocol};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// One instance behind a port or a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Backend {
    /// The instance.
    pub instance: String,
    /// The node it runs on.
    pub node: NodeId,
    /// That node's site.
    pub site: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A port that every node answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingress {
    /// The service.
    pub service: String,
    /// The port inside.
    pub target: u16,
    /// The instances that get connections, by id.
    pub backends: Vec<Backend>,
}

/// Everything the data path and the resolver need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// Published port and protocol → where it goes.
    pub ingress: BTreeMap<(u16, Protocol), Ingress>,
    /// Service → working instances, by id.
    pub services: BTreeMap<String, Vec<Backend>>,
}

/// Builds the table. Only instances that work on nodes that are alive get traffic, or on suspected ones while a service has no
/// others: a suspicion is no verdict, and nowhere to go is the worst answer. Of two services that publish one port
/// the older keeps it, ties by name.
#[must_use]
pub fn build<'a>(
    services: impl Iterator<Item = &'a ServiceRow>,
    instances: impl Iterator<Item = &'a InstanceRow>,
    nodes: &BTreeMap<NodeId, &'a Node>,
) -> RouteTable {
    let mut table = RouteTable::default();
    let mut rows: Vec<&ServiceRow> = services.collect();
    rows.sort_by_key(|row| (row.created_ms, row.spec.name.clone()));
    let ids: BTreeMap<&str, &str> = rows.iter().map(|row| (row.id.as_str(), row.spec.name.as_str())).collect();
    let mut suspected: BTreeMap<String, Vec<Backend>> = BTreeMap::new();
    for row in instances.filter(|row| row.works()) {
        let Some(name) = ids.get(row.service_id.as_str()) else { continue };
        let Some(node) = nodes.get(&row.node).filter(|node| !node.unheard && !node.doubtful) else { continue };
        let backends = match node.liveness {
            Liveness::Alive => &mut table.services,
            Liveness::Suspect => &mut suspected,
            Liveness::Down | Liveness::Left => continue,
        };
        backends.entry((*name).to_owned()).or_default().push(Backend {
            instance: row.id.clone(),
            node: row.node.clone(),
            site: node.facts.site.clone(),
            addresses: row.addresses.clone(),
        });
    }
    for (name, backends) in suspected {
        table.services.entry(name).or_insert(backends);
    }
    for backends in table.services.values_mut() {
        backends.sort();
    }
    for row in rows {
        let ports: Vec<&Port> =
            row.spec.ports.iter().filter(|port| port.mode == PortMode::Ingress && port.published != 0).collect();
        for port in ports {
            table.ingress.entry((port.published, port.protocol)).or_insert_with(|| Ingress {
                service: row.spec.name.clone(),
                target: port.target,
                backends: table.services.get(&row.spec.name).cloned().unwrap_or_default(),
            });
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::row;
    use crate::model::Phase;
    use crate::service::ServiceSpec;

    fn service(name: &str, id: &str, created_ms: u64) -> ServiceRow {
        let mut spec = ServiceSpec::new(name, "a");
        spec.ports = vec![Port { target: 80, published: 8080, protocol: Protocol::Tcp, mode: PortMode::Ingress }];
        ServiceRow {
            v: 1,
            id: id.to_owned(),
            generation: 1,
            spec,
            previous: None,
            rolled_back: false,
            created_ms,
            updated_ms: 0,
            extra: BTreeMap::new(),
        }
    }

    #[test]
    fn only_working_instances_on_living_nodes_get_traffic() {
        let alive = Node { id: "a".to_owned(), ..Node::default() };
        let suspect = Node { id: "b".to_owned(), liveness: Liveness::Suspect, ..Node::default() };
        let back = Node { id: "c".to_owned(), unheard: true, ..Node::default() };
        let nodes = BTreeMap::from([("a".to_owned(), &alive), ("b".to_owned(), &suspect), ("c".to_owned(), &back)]);
        let rows = [
            row("5", "c", Phase::Running),
            row("1", "a", Phase::Running),
            row("2", "b", Phase::Running),
            row("3", "a", Phase::Stopping),
            row("4", "gone", Phase::Running),
        ];
        let table = build([service("web", "sid", 0)].iter(), rows.iter(), &nodes);
        let ids: Vec<&str> = table.services["web"].iter().map(|backend| backend.instance.as_str()).collect();
        assert_eq!(ids, ["1"]);
        assert_eq!(table.ingress[&(8080, Protocol::Tcp)].backends.len(), 1);
    }

    #[test]
    fn suspected_nodes_serve_while_nobody_else_does() {
        let suspect = Node { id: "b".to_owned(), liveness: Liveness::Suspect, ..Node::default() };
        let nodes = BTreeMap::from([("b".to_owned(), &suspect)]);
        let table = build([service("web", "sid", 0)].iter(), [row("2", "b", Phase::Running)].iter(), &nodes);
        assert_eq!(table.ingress[&(8080, Protocol::Tcp)].backends.len(), 1);
    }

    #[test]
    fn the_older_service_keeps_a_port() {
        let services = [service("b", "1", 5), service("a", "2", 9)];
        let table = build(services.iter(), [].iter(), &BTreeMap::new());
        assert_eq!(table.ingress[&(8080, Protocol::Tcp)].service, "b");
    }
}
