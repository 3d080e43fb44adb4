//! Peers: identity, admission, membership, replicated table, content exchange.
