//! Channels of a cluster that are quiet while others are not.

use super::*;

/// The last message of a quiet channel is older than what another node has forgotten of its channels, so that a position at
/// that message made a client load its state again at each node that did not read the channel.
#[test]
fn the_position_in_a_quiet_channel_of_a_cluster_is_as_new_as_the_answer() {
    let [here, there] = [(); 2].map(|()| keeping(3));
    let (chat, quiet) = (["c".to_owned()], ["quiet".to_owned()]);
    let name = |name: &str| ChannelName::new(name, 255).unwrap();
    for hub in [&here, &there] {
        hub.begin_log(7, 10);
    }
    let (_stays, _) = enter(&here, &quiet, ALWAYS);
    let logged = |hub: &Hub, channel: &str, first: u64| {
        let at = Instant::now();
        let (channel, frame) =
            (&name(channel), &Delivery { issuer: "i", channel, data: Some("\"x\""), subject: None }.encode());
        hub.deliver_logged(
            &Logged { channel, frame, first, at, excluded: &[], live: true },
            &mut FlushList::new(),
        );
    };
    for hub in [&here, &there] {
        logged(hub, "quiet", 11);
        (12..100).for_each(|number| logged(hub, "c", number));
    }
    // What nobody reads there expires.
    sweep(&there, Instant::now() + 2 * TTL);
    assert_eq!(channels(&there), 0);
    let (_, _, told) = come_back(&here, &quiet, &[]);
    let expected = MessageId { epoch: 7, number: 99 };
    assert_eq!((told.id_of("quiet"), here.position(&name("quiet"))), (Some(expected), Some(expected)));
    let (_, _, told) = come_back(&there, &quiet, &[("quiet".into(), Some(expected))]);
    assert_eq!(told.recovered(), [true]);
    // With null, and nothing kept.
    let (_, _, told) = come_back(&there, &chat, &[("c".into(), None)]);
    assert_eq!(told.id_of("c"), Some(expected));
}
