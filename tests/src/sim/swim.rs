//! The compared side: SWIM as the crate `foca` has it, with its own defaults for a LAN, over the same latencies in virtual
//! time. Its messages are datagrams: what is lost is lost. In: a size and a seed. Out: who was told what when, and bytes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU32;

use foca::{
    AccumulatingRuntime, Config, Foca, Identity, Member, NoCustomBroadcast, OwnedNotification, PostcardCodec, Timer,
};
use p2p::node::Dice;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use super::net::Profile;

/// What UDP and IP add to a datagram.
const OVERHEAD: u64 = 28;

/// A member: its number, and how often it has begun anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    at: u16,
    life: u16,
}

impl Identity for Name {
    type Addr = u16;

    fn renew(&self) -> Option<Self> {
        Some(Self { life: self.life + 1, ..*self })
    }

    fn addr(&self) -> u16 {
        self.at
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.life > adversary.life
    }
}

enum Event {
    Data(Vec<u8>),
    Timer(Timer<Name>),
}

struct Queued {
    at: u64,
    number: u64,
    to: usize,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A cluster of SWIM members.
pub struct Swim {
    members: Vec<Foca<Name, PostcardCodec, StdRng, NoCustomBroadcast>>,
    alive: Vec<bool>,
    stalled_until: Vec<u64>,
    queue: BinaryHeap<Reverse<Queued>>,
    number: u64,
    now: u64,
    dice: Dice,
    profile: Profile,
    /// Datagrams and bytes sent.
    pub sent: (u64, u64),
    /// Who was called down by whom, and when in ms.
    pub downs: Vec<(usize, usize, u64)>,
}

impl std::fmt::Debug for Swim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Swim({} members)", self.members.len())
    }
}

impl Swim {
    /// `count` members that know each other.
    #[must_use]
    pub fn new(seed: u64, count: u16, profile: Profile) -> Self {
        let size = NonZeroU32::new(u32::from(count)).unwrap_or(NonZeroU32::MIN);
        let name = |at: u16| Name { at, life: 0 };
        let members = (0..count)
            .map(|at| {
                let rng = StdRng::seed_from_u64(seed ^ u64::from(at));
                Foca::new(name(at), Config::new_lan(size), rng, PostcardCodec)
            })
            .collect();
        let all = usize::from(count);
        let mut swim = Self {
            members,
            alive: vec![true; all],
            stalled_until: vec![0; all],
            queue: BinaryHeap::new(),
            number: 0,
            now: 0,
            dice: Dice(seed),
            profile,
            sent: (0, 0),
            downs: Vec::new(),
        };
        for at in 0..count {
            let others = (0..count).filter(|other| *other != at).map(|other| Member::alive(name(other)));
            let mut runtime = AccumulatingRuntime::new();
            // Applying what is known cannot fail: nothing of it is about this member.
            let _ = swim.members[usize::from(at)].apply_many(others, false, &mut runtime);
            swim.drain(usize::from(at), runtime);
            swim.run(1_000 / u64::from(count).max(1));
        }
        swim
    }

    /// Sets the loss, in datagrams of ten thousand.
    pub fn set_loss(&mut self, loss: u64) {
        self.profile.loss = loss;
    }

    /// A member's process dies.
    pub fn kill(&mut self, at: usize) {
        self.alive[at] = false;
    }

    /// A member's process does not run for so many ms.
    pub fn stall(&mut self, at: usize, ms: u64) {
        self.stalled_until[at] = self.now + ms * 1_000;
    }

    /// Virtual time in ms.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now / 1_000
    }

    fn push(&mut self, at: u64, to: usize, event: Event) {
        self.number += 1;
        self.queue.push(Reverse(Queued { at, number: self.number, to, event }));
    }

    fn drain(&mut self, from: usize, mut runtime: AccumulatingRuntime<Name>) {
        while let Some((to, bytes)) = runtime.to_send() {
            self.sent = (self.sent.0 + 1, self.sent.1 + bytes.len() as u64 + OVERHEAD);
            if self.dice.below(10_000) < self.profile.loss {
                continue;
            }
            let (least, spread) = self.profile.near_us;
            let at = self.now + least + self.dice.below(spread);
            self.push(at, usize::from(to.at), Event::Data(bytes.to_vec()));
        }
        while let Some((after, timer)) = runtime.to_schedule() {
            let at = self.now + u64::try_from(after.as_micros()).unwrap_or(u64::MAX / 2);
            self.push(at, from, Event::Timer(timer));
        }
        while let Some(told) = runtime.to_notify() {
            if let OwnedNotification::MemberDown(name) = told {
                self.downs.push((usize::from(name.at), from, self.now / 1_000));
            }
        }
    }

    /// Runs for so many virtual ms.
    pub fn run(&mut self, ms: u64) {
        let until = self.now + ms * 1_000;
        while self.queue.peek().is_some_and(|Reverse(next)| next.at <= until) {
            let Some(Reverse(next)) = self.queue.pop() else { break };
            self.now = self.now.max(next.at);
            if !self.alive[next.to] {
                continue;
            }
            if self.stalled_until[next.to] > self.now {
                self.push(self.stalled_until[next.to], next.to, next.event);
                continue;
            }
            let mut runtime = AccumulatingRuntime::new();
            let member = &mut self.members[next.to];
            // Refused input (of a former life) is what foca's errors are about; the protocol goes on.
            let _ = match next.event {
                Event::Data(bytes) => member.handle_data(&bytes, &mut runtime),
                Event::Timer(timer) => member.handle_timer(timer, &mut runtime),
            };
            self.drain(next.to, runtime);
        }
        self.now = until;
    }
}
