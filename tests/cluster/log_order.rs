//! One order on all nodes, which only a history gives.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::clients::{epoch_of, number_of};
use crate::delivery::{NAMES, assert_complete, data, publish_everywhere};
use crate::nats::NatsServer;
use crate::node::{LOG, Node};

#[test]
fn with_a_history_all_readers_on_all_nodes_see_one_order() {
    let nats = NatsServer::start();
    let nodes = Node::start_all(NAMES, &nats.url(), LOG);
    let (read, publishers) = publish_everywhere(&nodes);
    assert_complete(&read[0]);
    for other in &read[1..] {
        assert!(read[0] == *other, "two readers saw different messages or orders");
    }
    let ids: Vec<u64> = read[0].iter().map(|message| number_of(&message["id"])).collect();
    assert!(ids.is_sorted_by(|one, next| one < next));
    let epoch = epoch_of(&read[0][0]["id"]);
    assert!(read[0].iter().all(|message| epoch_of(&message["id"]) == epoch));
    for (publisher, name) in publishers.iter().zip(NAMES) {
        assert!(publisher.refused.is_empty(), "{:?}", publisher.refused);
        let own = read[0].iter().filter(|message| data(message).starts_with(name));
        let own: BTreeMap<String, &Value> =
            own.map(|message| (data(message).to_owned(), &message["id"])).collect();
        for (number, id) in &publisher.stored {
            assert_eq!(
                own[&format!("{name} {number}")],
                id,
                "{name} {number}: an ack has another id than the message"
            );
        }
        let numbers: Vec<u64> = publisher.stored.iter().map(|(number, _)| *number).collect();
        let late = numbers.windows(2).find(|pair| pair[0] > pair[1]);
        assert_eq!(late, None, "answers came in another order than the messages");
    }
}
