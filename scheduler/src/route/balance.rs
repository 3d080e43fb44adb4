//! Which of several instances a new connection goes to, where user space decides: the less busy of two at random. Pure.

use crate::route::table::Backend;
use crate::steward::Dice;

/// Chooses among backends by the open connections that `load` reports; `None` when there is no backend. Backends of the
/// `near` site are preferred while there is one.
pub fn choose<'a>(
    backends: &'a [Backend],
    near: &str,
    load: impl Fn(&Backend) -> usize,
    dice: &mut Dice,
) -> Option<&'a Backend> {
    let here: Vec<&Backend> = backends.iter().filter(|backend| backend.site == near).collect();
    let pool = if here.is_empty() { backends.iter().collect() } else { here };
    if pool.is_empty() {
        return None;
    }
    let (first, second) = (pool[dice.below(pool.len())], pool[dice.below(pool.len())]);
    Some(if load(second) < load(first) { second } else { first })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(instance: &str, site: &str) -> Backend {
        Backend { instance: instance.to_owned(), node: String::new(), site: site.to_owned(), addresses: Vec::new() }
    }

    #[test]
    fn the_near_site_comes_first_and_the_busy_one_is_avoided() {
        let backends = [backend("1", "a"), backend("2", "a"), backend("3", "b")];
        let mut dice = Dice::new(1);
        let mut busy = 0;
        for _ in 0..1000 {
            let chosen = choose(&backends, "a", |b| usize::from(b.instance == "1"), &mut dice).unwrap();
            assert_ne!(chosen.instance, "3");
            busy += usize::from(chosen.instance == "1");
        }
        assert!(busy < 400, "{busy}");
        assert!(choose(&[], "a", |_| 0, &mut dice).is_none());
        assert_eq!(choose(&backends[2..], "a", |_| 0, &mut dice).unwrap().instance, "3");
    }
}
