//! History against a model, by operations in random order.

#![allow(clippy::needless_range_loop, reason = "a channel's number is its name, too")]

use proptest::strategy::Just;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Publish(u8, u8),
    Leave(usize),
    Back(usize),
    Sweep,
    /// All messages grow old.
    Age,
    /// History is turned off, or on again.
    Turn,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0_u8..3, 1_u8..4).prop_map(|(channel, count)| Op::Publish(channel, count)),
        3 => any::<usize>().prop_map(Op::Leave),
        4 => any::<usize>().prop_map(Op::Back),
        1 => Just(Op::Sweep),
        1 => Just(Op::Age),
        1 => Just(Op::Turn),
    ]
}

/// A place in a channel: which of its histories, and how much had been published.
type Place = (usize, usize);

/// A channel as it must be.
#[derive(Default)]
struct Model {
    /// All that was ever published: the text, and the history that it went into.
    published: Vec<(String, Option<usize>)>,
    /// How many histories there were; of the last of them, whether it goes on, and how much had been published before
    /// what it keeps.
    histories: usize,
    goes_on: bool,
    kept_from: usize,
    readers: usize,
}

impl Model {
    fn begin(&mut self) {
        if !self.goes_on {
            (self.goes_on, self.kept_from) = (true, self.published.len());
            self.histories += 1;
        }
    }

    fn publish(&mut self, text: &str, on: bool, keeps: usize) {
        if on {
            self.begin();
        } else {
            self.goes_on = false;
        }
        self.published.push((text.to_owned(), on.then_some(self.histories)));
        self.kept_from = self.kept_from.max(self.published.len().saturating_sub(keeps));
    }

    /// Nothing is kept any more; unread, not even the place.
    fn empty(&mut self) {
        self.kept_from = self.published.len();
        self.goes_on &= self.readers > 0;
    }

    fn leave(&mut self, on: bool) {
        self.readers -= 1;
        if !on && self.kept_from == self.published.len() {
            self.empty();
        }
    }

    fn reaches(&self, (history, seen): Place) -> bool {
        self.goes_on && history == self.histories && seen >= self.kept_from
    }
}

/// Someone who goes and comes back: its last id in each channel, and the place that this is.
#[derive(Default)]
struct Visitor {
    here: Option<(Arc<Connection>, TestSink)>,
    /// From where on in what was published it must get all.
    seen: [usize; 3],
    last: [Option<(MessageId, Place)>; 3],
}

impl Visitor {
    /// Takes what it got: must be, for each channel, just what was published since.
    fn look(&mut self, models: &[Model; 3]) {
        let Some((connection, sink)) = &self.here else { return };
        write(connection);
        let mut got: [Vec<String>; 3] = Default::default();
        for (channel, text, id) in with_ids(sink) {
            let channel: usize = channel.parse().unwrap();
            got[channel].push(text);
            let seen = self.seen[channel] + got[channel].len();
            let history = models[channel].published[seen - 1].1;
            assert_eq!(history.is_some(), id != MessageId::NONE);
            if let Some(history) = history {
                self.last[channel] = Some((id, (history, seen)));
            }
        }
        for channel in 0..3 {
            let published = models[channel].published[self.seen[channel]..].iter().map(|(text, _)| text);
            assert!(got[channel].iter().eq(published), "channel {channel}");
        }
    }
}

proptest! {
    /// Visitors go and come back while messages are published and grow old, and history is turned off and on. Each must
    /// get exactly what it missed where it is told so, and it must be told so whenever that is there: after a restart
    /// of its history, or when more came than is kept, and never otherwise, that nothing can be recovered.
    #[test]
    fn recovers_like_its_model(ops in proptest::collection::vec(op(), 1..80), keeps in 1_usize..8) {
        let hub = keeping(keeps);
        let names: Vec<String> = (0..3).map(|n| n.to_string()).collect();
        let mut models: [Model; 3] = Default::default();
        let mut visitors: [Visitor; 3] = Default::default();
        let mut on = true;
        for (count, op) in ops.into_iter().enumerate() {
            match op {
                Op::Publish(channel, messages) => {
                    let mut batch = Batch::new();
                    for message in 0..messages {
                        let text = format!("{count}.{message}");
                        let (data, name) = (format!("\"{text}\""), channel.to_string());
                        batch.add(&Delivery { issuer: "i", channel: &name, data: Some(&data), subject: None });
                        models[usize::from(channel)].publish(&text, on, keeps);
                    }
                    let mut flush_list = FlushList::new();
                    hub.publish_batch(&mut batch, None, &mut flush_list);
                    flush_list.flush();
                }
                Op::Leave(who) => {
                    let visitor = &mut visitors[who % 3];
                    visitor.look(&models);
                    if let Some((connection, _)) = visitor.here.take() {
                        hub.leave(&connection);
                        models.iter_mut().for_each(|model| model.leave(on));
                    }
                }
                Op::Back(who) => {
                    let visitor = &mut visitors[who % 3];
                    if visitor.here.is_some() {
                        continue;
                    }
                    let since: Vec<Since<'_>> = (0..3)
                        .filter_map(|channel| visitor.last[channel].map(|(id, _)| (names[channel].as_str().into(), Some(id))))
                        .collect();
                    let (connection, sink, told) = come_back(&hub, &names, &since);
                    for channel in 0..3 {
                        let model = &mut models[channel];
                        let last = visitor.last[channel];
                        let reaches = last.is_some_and(|(_, place)| on && model.reaches(place));
                        prop_assert_eq!(told.recovered_of(&names[channel]), last.map(|_| reaches));
                        if on {
                            model.begin();
                        }
                        if !reaches {
                            let place = (model.histories, model.published.len());
                            visitor.last[channel] = told.id_of(&names[channel]).map(|id| (id, place));
                        }
                        prop_assert_eq!(told.id_of(&names[channel]), visitor.last[channel].filter(|_| on).map(|(id, _)| id));
                        visitor.seen[channel] = visitor.last[channel].map_or(model.published.len(), |(_, (_, seen))| seen);
                        model.readers += 1;
                    }
                    visitor.here = Some((connection, sink));
                }
                Op::Sweep => {
                    sweep(&hub, Instant::now());
                    if !on {
                        models.iter_mut().for_each(Model::empty);
                    }
                }
                Op::Age => {
                    sweep(&hub, Instant::now() + TTL);
                    models.iter_mut().for_each(Model::empty);
                }
                Op::Turn => {
                    on = !on;
                    hub.keep(if on { keeps } else { 0 }, TTL, 1 << 30);
                }
            }
        }
        for visitor in &mut visitors {
            visitor.look(&models);
            if let Some((connection, _)) = visitor.here.take() {
                hub.leave(&connection);
            }
        }
        sweep(&hub, Instant::now() + TTL);
        prop_assert_eq!((hub.history_bytes(), channels(&hub)), (0, 0));
    }
}
