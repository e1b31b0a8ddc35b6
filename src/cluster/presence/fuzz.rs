//! Messages of presence, announcements of their numbers, and ticks, in any order, for tests/fuzz.

use super::*;
use crate::hub::PresenceLimits;

/// The nodes that are known.
const NODES: [&str; 3] = ["b@0000000000000002", "c@0000000000000003", "d@0000000000000004"];

/// The most bytes of a message.
const ROOM: usize = 4_096;

const LIMITS: PresenceLimits = PresenceLimits { grace: Duration::ZERO, subjects: 20 };

/// Each line is an event, chosen by its first byte: a message, the number of a last message, a tick, or a new link.
pub(crate) fn presence(data: &[u8], hub: &Hub) {
    let presence = Presence::new(hub);
    let now = Instant::now();
    let mut numbers = 0;
    for (at, line) in data.split(|byte| *byte == b'\n').enumerate() {
        let Some((kind, rest)) = line.split_first() else { continue };
        let node = NODES[rest.len() % NODES.len()];
        // The last node comes and goes.
        let peer = |id: &&str| Peer { id: (*id).into(), reachable: *id != NODES[2] || at % 2 == 0 };
        let peers: Vec<Peer> = NODES.iter().map(peer).collect();
        let (id, mut flush_list) = (NodeId::parse(node).unwrap(), FlushList::new());
        match kind {
            b'n' => {
                let number = std::str::from_utf8(rest).ok().and_then(|text| text.parse().ok());
                presence.announced(&id, number.unwrap_or(1), hub);
            }
            b't' => presence.tick(&peers, hub),
            b'u' => presence.up(hub),
            _ => {
                let Some((id, body)) = Body::parse(rest) else { continue };
                let before = lock(&presence.state).others.get(&id).map_or(0, |other| other.number);
                if NODES.contains(&&*id.to_string()) {
                    let heard = presence.hear(&id, "a@0000000000000001", &body, hub, &peers, &mut flush_list);
                    assert!(heard.is_none() || body.number > before, "a message counts a second time");
                }
            }
        }
        hub.tell_presence(now + Duration::from_secs(at as u64), LIMITS, &peers, &mut flush_list);
        for body in presence.take(hub, "a@0000000000000001", ROOM) {
            numbers += 1;
            assert_eq!(body.number, numbers);
            let bytes = body.encode();
            assert!(bytes.len() <= ROOM, "{} bytes", bytes.len());
            assert!(is_presence(&bytes) && Body::parse(&bytes).is_some(), "others must understand it");
        }
        check(&lock(&presence.state));
    }
}

/// The counts of followed channels agree with what each node follows.
fn check(state: &State) {
    let mut followed: HashMap<&ChannelName, usize> = HashMap::new();
    for other in state.others.values() {
        assert!(other.follows.len() <= MAX_FOLLOWED);
        for name in &other.follows {
            assert!(ChannelName::check(name.as_str(), MAX_CHANNEL_NAME).is_ok());
            *followed.entry(name).or_default() += 1;
        }
    }
    assert_eq!(state.pairs, followed.values().sum::<usize>());
    assert_eq!(followed, state.followed.iter().map(|(name, nodes)| (name, *nodes)).collect());
}
