//! What is fuzzed: calls of hostile peers and rows that a hostile node has written, as far as they are read without a socket.
//!
//! In: any bytes. Out: a class of outcome, by which a driver without coverage knows something new when it sees it. A target
//! panics when an invariant is broken, and never else.

use p2p::id::NodeId;
use p2p::table::row::Version;
use p2p::table::{Body, Key, Row, Table};
use scheduler::core::{Action, Config, Core, Event};
use scheduler::model::{Answer, NodeFacts};
use scheduler::node::blobs::Want;
use scheduler::node::cluster::{self, Ask};
use scheduler::service::Amount;

/// A fuzz target.
pub(crate) type Target = fn(&[u8]) -> String;

/// Every target by its name, which is also the name of its corpus.
pub(crate) const TARGETS: [(&str, Target); 3] = [("ask", ask), ("want", want), ("rows", rows)];

const MEMORY: u64 = 1 << 30;

/// A core that is ready to admit.
fn core() -> Core {
    let me = NodeId(1).to_string();
    let mut core = Core::new(Config { me: me.clone(), seed: 1 }, 1_000);
    let facts = NodeFacts {
        v: 1,
        name: "n1".to_owned(),
        capacity: Amount { cpu_nanos: 1_000_000_000, memory_bytes: MEMORY, pids: 100 },
        ..NodeFacts::default()
    };
    core.handle(1_000, Event::Facts(me, facts));
    core.handle(1_000, Event::ContainersListed);
    core.handle(1_000, Event::TablesRead);
    core
}

/// Lets a core act for a while; it neither panics nor sets aside more than there is. Returns how many actions it took.
fn settle(core: &mut Core) -> usize {
    let mut actions = 0;
    for step in 0..8u64 {
        core.handle(2_000 + step * 5_000, Event::Tick);
        while let Some(action) = core.poll_action() {
            actions += 1;
            assert!(actions < 10_000, "it does not come to rest");
            if let Action::Reserve(_, reserve) = action {
                core.handle(2_000, Event::Reserved { id: reserve.id, answer: Answer::Refused("no".to_owned()) });
            }
        }
    }
    actions
}

/// A call of a peer.
pub(crate) fn ask(bytes: &[u8]) -> String {
    let ask = match serde_json::from_slice::<Ask>(bytes) {
        Ok(ask) => ask,
        Err(error) => return class("refused", &error.to_string()),
    };
    let text = serde_json::to_vec(&ask).expect("a call that was read can be written");
    assert!(serde_json::from_slice::<Ask>(&text).is_ok_and(|again| again == ask), "reads differently the second time");
    let mut core = core();
    match ask {
        Ask::Reserve(reserve) => core.handle(1_000, Event::Reserve(7, reserve)),
        Ask::Release(release) => core.handle(1_000, Event::Release(7, release)),
        Ask::Listens { ports } => return format!("listens {:b}", ports.len().next_power_of_two()),
        Ask::Pushed { repository } => return format!("pushed {:b}", repository.len().next_power_of_two()),
        Ask::Logs { tail, .. } => return format!("logs {:b}", tail.checked_next_power_of_two().unwrap_or(0)),
    }
    let mut answers = Vec::new();
    while let Some(action) = core.poll_action() {
        if let Action::Answer(call, answer) = action {
            assert_eq!(call, 7);
            answers.push(answer);
        }
    }
    assert_eq!(answers.len(), 1, "one answer to one call");
    let set_aside: u64 = core.instances().map(|row| row.reserved.memory_bytes).fold(0, u64::saturating_add);
    assert!(set_aside <= MEMORY, "{set_aside} bytes set aside of {MEMORY}");
    settle(&mut core);
    match answers.remove(0) {
        Answer::Accepted => "accepted".to_owned(),
        Answer::Refused(why) => class("answered", &why),
    }
}

/// A wish for an image or a part of a blob.
pub(crate) fn want(bytes: &[u8]) -> String {
    match serde_json::from_slice::<Want>(bytes) {
        Err(error) => class("refused", &error.to_string()),
        Ok(want) => {
            let text = serde_json::to_vec(&want).expect("a wish that was read can be written");
            assert!(serde_json::from_slice::<Want>(&text).is_ok_and(|again| again == want));
            match want {
                Want::Image { image } => format!("image of {:b}", image.len().next_power_of_two()),
                Want::Part { .. } => "part".to_owned(),
            }
        }
    }
}

/// A row of each table the scheduler reads: an error in words, or an event after which the core comes to rest.
pub(crate) fn rows(bytes: &[u8]) -> String {
    let node = NodeId(1);
    let version = Version::Shared { generation: 1, time_ms: 1, writer: node, id: 1, ancestors: vec![] };
    let mut outcome = String::new();
    for (table, id) in [
        (Table::NODE_FACTS, node.to_string()),
        (Table::NODE_POLICY, node.to_string()),
        (Table::SERVICE, "web".to_owned()),
        (Table::ROLLOUT, "web".to_owned()),
        (Table::INSTANCE, format!("{node}/i1")),
    ] {
        let row =
            Row { key: Key::global(table, id), version: version.clone(), deleted: false, body: Body(bytes.to_vec()) };
        match cluster::event(table, &row) {
            Ok(None) => panic!("{table} is a table of the scheduler"),
            Err(why) => outcome += &class("", &why).chars().take(24).collect::<String>(),
            Ok(Some(event)) => {
                let mut core = core();
                core.handle(1_000, event);
                outcome += &format!("{table}: {:b} actions ", settle(&mut core).next_power_of_two());
            }
        }
    }
    outcome
}

/// The words of an outcome without what is quoted or counted in it.
fn class(stage: &str, words: &str) -> String {
    let mut class = format!("{stage}: ");
    let mut quoted = false;
    for letter in words.chars().take(200) {
        match letter {
            '"' | '`' => quoted = !quoted,
            _ if quoted || letter.is_ascii_digit() => {}
            _ => class.push(letter),
        }
    }
    class
}
