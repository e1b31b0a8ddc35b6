//! Joining and leaving channels over real sockets against a model, by operations in random order.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Client, Daemon, sign};

/// The channels, as the ends of their names.
const CHANNELS: [&str; 5] = ["a0", "a1", "b0", "b1", "c"];
const PATTERNS: [&str; 4] = ["a*", "b*", "b1", "*"];
const CLIENTS: usize = 3;
/// `channels_per_token` of the daemon.
const MAX: usize = 4;

type Names = BTreeSet<&'static str>;

#[derive(Clone, Debug)]
enum Op {
    /// The client connects with this token, or replaces its token by it.
    Auth(usize, Names, Vec<&'static str>),
    /// With or without the last ids that it knows.
    Join(usize, Names, bool),
    Leave(usize, Names),
    Publish(usize, usize),
    Cut(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let names = || {
        proptest::collection::vec(proptest::sample::select(&CHANNELS[..]), 0..4)
            .prop_map(|names| names.into_iter().collect::<Names>())
    };
    let patterns = proptest::collection::vec(proptest::sample::select(&PATTERNS[..]), 0..3);
    let who = || 0..CLIENTS;
    prop_oneof![
        2 => (who(), names(), patterns).prop_map(|(who, read, may)| Op::Auth(who, read, may)),
        5 => (who(), names(), any::<bool>()).prop_map(|(who, names, since)| Op::Join(who, names, since)),
        3 => (who(), names()).prop_map(|(who, names)| Op::Leave(who, names)),
        8 => (who(), 0..CHANNELS.len()).prop_map(|(who, channel)| Op::Publish(who, channel)),
        2 => who().prop_map(Op::Cut),
    ]
}

#[derive(Default)]
struct Visitor {
    client: Option<Client>,
    read: Names,
    may: Vec<&'static str>,
    joined: Names,
    /// The last id of each channel that its client knows.
    known: BTreeMap<&'static str, String>,
    /// What it must receive, as [`Prefix::told`] writes it.
    expected: Vec<String>,
}

impl Visitor {
    fn may_join(&self, name: &str) -> bool {
        self.read.contains(name)
            || self.may.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => *pattern == name,
            })
    }

    fn reads(&self) -> Names {
        self.read.union(&self.joined).copied().collect()
    }
}

/// What the names of a case begin with, so that cases have nothing in common.
#[derive(Clone)]
struct Prefix(String);

impl Prefix {
    fn full(&self, names: &Names) -> Vec<String> {
        names.iter().map(|name| format!("{}{name}", self.0)).collect()
    }

    fn short(&self, name: &Value) -> &'static str {
        let short = name.as_str().unwrap().strip_prefix(&self.0).unwrap();
        CHANNELS.into_iter().find(|channel| *channel == short).unwrap()
    }

    /// A frame in words. A channel that was recovered has a `+`, one that was not a `-`.
    fn told(&self, frame: &Value) -> String {
        let names = |array: &Value| list(array.as_array().unwrap().iter().map(|name| self.short(name)));
        if frame["access"].is_object() {
            format!("access {}", names(&frame["access"]["read"]))
        } else if let Some(joined) = frame["joined"].as_object() {
            let channel = |(name, told): (&String, &Value)| {
                let recovered = told["recovered"].as_bool().map_or("", |is| if is { "+" } else { "-" });
                format!("{}{recovered}", self.short(&json!(name)))
            };
            format!("joined {}", joined.iter().map(channel).collect::<Vec<_>>().join(" "))
        } else if frame["left"].is_array() {
            format!("left {}", names(&frame["left"]))
        } else if let Some(error) = frame["error"].as_str() {
            format!("{error} {}", self.short(&frame["channel"]))
        } else {
            format!("{} {}", self.short(&frame["channel"]), frame["data"].as_str().unwrap())
        }
    }

    /// The ids that a frame tells, with their channels.
    fn ids(&self, frame: &Value) -> Vec<(&'static str, String)> {
        let id = |name: &Value, id: &Value| id.as_str().map(|id| (self.short(name), id.to_owned()));
        let told = frame["access"]["ids"].as_object().into_iter().flatten();
        let told = told.filter_map(|(name, told)| id(&json!(name), told));
        let joined = frame["joined"].as_object().into_iter().flatten();
        let joined = joined.filter_map(|(name, told)| id(&json!(name), &told["id"]));
        told.chain(joined).chain(id(&frame["channel"], &frame["id"])).collect()
    }
}

struct World<'a> {
    daemon: &'a Daemon,
    prefix: Prefix,
    published: BTreeMap<&'static str, Vec<String>>,
    visitors: [Visitor; CLIENTS],
}

/// Everything that has arrived, up to the pong to a ping that is sent now.
fn arrived(client: &mut Client) -> Vec<Value> {
    client.socket.send(Message::Ping("here".into())).unwrap();
    let mut frames = Vec::new();
    loop {
        match client.socket.read().unwrap() {
            Message::Pong(payload) if payload == "here" => return frames,
            Message::Text(text) => frames.push(serde_json::from_str(&text).unwrap()),
            Message::Ping(_) => {}
            other => panic!("unexpected frame: {other:?}"),
        }
    }
}

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(" ")
}

impl World<'_> {
    /// Compares what a client has received with the model, and notes the ids that it has learned.
    fn check(&mut self, who: usize) -> Result<(), TestCaseError> {
        let visitor = &mut self.visitors[who];
        let Some(client) = &mut visitor.client else { return Ok(()) };
        let frames = arrived(client);
        let told: Vec<String> = frames.iter().map(|frame| self.prefix.told(frame)).collect();
        prop_assert_eq!(&told, &visitor.expected);
        visitor.expected.clear();
        for (name, id) in frames.iter().flat_map(|frame| self.prefix.ids(frame)) {
            visitor.known.insert(name, id);
        }
        Ok(())
    }

    fn auth(&mut self, who: usize, read: Names, may: Vec<&'static str>) {
        let patterns: Vec<String> = may.iter().map(|pattern| format!("{}{pattern}", self.prefix.0)).collect();
        let write = format!("{}*", self.prefix.0);
        let claims = json!({"read": self.prefix.full(&read), "may": {"read": patterns, "write": [write]}});
        let visitor = &mut self.visitors[who];
        (visitor.read, visitor.may) = (read, may);
        let frame = json!({"auth": sign(&claims)}).to_string();
        if let Some(client) = &mut visitor.client {
            client.send(frame);
            let mut room = MAX.saturating_sub(visitor.read.len());
            let mut left = Names::new();
            for name in visitor.joined.clone() {
                let reads = visitor.read.contains(name);
                if !reads && (room == 0 || !visitor.may_join(name)) {
                    visitor.joined.remove(name);
                    left.insert(name);
                } else if !reads {
                    room -= 1;
                }
            }
            if !left.is_empty() {
                visitor.expected.push(format!("left {}", list(left)));
            }
        } else {
            let mut request = self.daemon.request("/");
            request.headers_mut().insert("Sec-WebSocket-Protocol", "philote.v1".parse().unwrap());
            let mut client = self.daemon.open(request).unwrap();
            client.send(frame);
            visitor.client = Some(client);
            visitor.joined.clear();
        }
        visitor.expected.push(format!("access {}", list(visitor.read.clone())));
    }

    fn join(&mut self, who: usize, wanted: &Names, resumes: bool) {
        let visitor = &mut self.visitors[who];
        let Some(client) = &mut visitor.client else { return };
        let since: BTreeMap<&str, String> = wanted
            .iter()
            .filter(|_| resumes)
            .filter_map(|name| Some((*name, visitor.known.get(name)?.clone())))
            .collect();
        let named: BTreeMap<String, &String> =
            since.iter().map(|(name, id)| (format!("{}{name}", self.prefix.0), id)).collect();
        client.send(json!({"join": self.prefix.full(wanted), "since": named}).to_string());
        if let Some(name) = wanted.iter().find(|name| !visitor.may_join(name)) {
            return visitor.expected.push(format!("forbidden {name}"));
        }
        let new: Names = wanted.difference(&visitor.reads()).copied().collect();
        if let Some(name) = new.iter().nth(MAX.saturating_sub(visitor.reads().len())) {
            return visitor.expected.push(format!("forbidden {name}"));
        }
        visitor.joined.extend(wanted);
        let recovers = |name: &&str| new.contains(name) && since.contains_key(name);
        let answer =
            wanted.iter().map(|name| if recovers(name) { format!("{name}+") } else { (*name).into() });
        visitor.expected.push(format!("joined {}", answer.collect::<Vec<_>>().join(" ")));
        for (name, id) in since.iter().filter(|(name, _)| new.contains(*name)) {
            // The number in the id counts the messages of the channel.
            let seen: usize = id.rsplit('-').next().unwrap().parse().unwrap();
            for text in &self.published[name][seen..] {
                visitor.expected.push(format!("{name} {text}"));
            }
        }
    }

    fn leave(&mut self, who: usize, wanted: &Names) {
        let visitor = &mut self.visitors[who];
        let Some(client) = &mut visitor.client else { return };
        client.send(json!({"leave": self.prefix.full(wanted)}).to_string());
        if let Some(name) = wanted.iter().find(|name| visitor.read.contains(*name)) {
            return visitor.expected.push(format!("forbidden {name}"));
        }
        visitor.joined.retain(|name| !wanted.contains(name));
        visitor.expected.push(format!("left {}", list(wanted.clone())));
    }

    fn publish(&mut self, who: usize, channel: &'static str, text: &str) {
        let Some(client) = &mut self.visitors[who].client else { return };
        client.publish(&format!("{}{channel}", self.prefix.0), text);
        self.published.get_mut(channel).unwrap().push(text.to_owned());
        for (at, visitor) in self.visitors.iter_mut().enumerate() {
            if at != who && visitor.client.is_some() && visitor.reads().contains(channel) {
                visitor.expected.push(format!("{channel} {text}"));
            }
        }
    }
}

/// Clients get exactly what was published on the channels that they read, once and in order, whatever they join and leave,
/// whatever tokens they send, and wherever their connections are cut.
#[test]
fn channels_are_joined_and_left_like_their_model_over_sockets() {
    let daemon = Daemon::start(&format!(
        "[limits]\nchannels_per_token = {MAX}\n[history]\nmessages = 1000\nttl = \"1h\"\n"
    ));
    let cases = Cell::new(0);
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&proptest::collection::vec(op(), 1..60), |ops| {
        cases.set(cases.get() + 1);
        let mut world = World {
            daemon: &daemon,
            prefix: Prefix(format!("case {}: ", cases.get())),
            published: CHANNELS.map(|name| (name, Vec::new())).into(),
            visitors: Default::default(),
        };
        for (count, op) in ops.into_iter().enumerate() {
            let who = match op {
                Op::Auth(who, read, may) => {
                    world.auth(who, read, may);
                    who
                }
                Op::Join(who, names, resumes) => {
                    world.join(who, &names, resumes);
                    who
                }
                Op::Leave(who, names) => {
                    world.leave(who, &names);
                    who
                }
                Op::Publish(who, channel) => {
                    world.publish(who, CHANNELS[channel], &count.to_string());
                    who
                }
                Op::Cut(who) => {
                    world.check(who)?;
                    world.visitors[who].client = None;
                    who
                }
            };
            world.check(who)?;
        }
        (0..CLIENTS).try_for_each(|who| world.check(who))
    });
    outcome.unwrap();
}
