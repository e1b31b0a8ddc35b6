//! Compares philote-admin(7) with the program: each JSON example has exactly the shape of its type, and each route is
//! listed.

use philote::admin::api::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const PAGE: &str = include_str!("../../man/philote-admin.7");

/// A check of one example.
type Check = fn(&str);

/// Parses an example as its type and serializes it again; nothing may be lost, added or changed.
fn round<T: DeserializeOwned + Serialize>(example: &str) {
    let shown: Value = serde_json::from_str(example).unwrap_or_else(|error| panic!("{error}: {example}"));
    let read: T = serde_json::from_str(example).unwrap_or_else(|error| panic!("{error}: {example}"));
    assert_eq!(serde_json::to_value(read).unwrap(), shown, "{example}");
}

#[test]
fn every_example_in_the_manual_has_the_shape_of_its_type() {
    let types: &[(&str, Check)] = &[
        ("ClosedConnections", round::<ClosedConnections>),
        ("Channels", round::<Channels>),
        ("Checkup", round::<Checkup>),
        ("ClusterNodes", round::<ClusterNodes>),
        ("Connections", round::<Connections>),
        ("Coverage", round::<Coverage>),
        ("DisconnectRequest", round::<DisconnectRequest>),
        ("Disconnected", round::<Disconnected>),
        ("Event", |events| {
            // The daemon sends each event on one line; the manual page breaks the lines.
            for event in serde_json::Deserializer::from_str(events).into_iter::<Value>() {
                round::<Event>(&event.unwrap().to_string());
            }
        }),
        ("Explanation", round::<Explanation>),
        ("Failure", round::<Failure>),
        ("InspectRequest", round::<InspectRequest>),
        ("Inspection", round::<Inspection>),
        ("IssuedToken", round::<IssuedToken>),
        ("LevelRequest", round::<LevelRequest>),
        ("Levels", round::<Levels>),
        ("LiftRequest", round::<LiftRequest>),
        ("Lifted", round::<Lifted>),
        ("PublishRequest", round::<PublishRequest>),
        ("Published", round::<Published>),
        ("Ready", round::<Ready>),
        ("RefusedSubjects", round::<RefusedSubjects>),
        ("ReloadRequest", round::<ReloadRequest>),
        ("Reloaded", round::<Reloaded>),
        ("SecretChanged", round::<SecretChanged>),
        ("SecretSet", round::<SecretSet>),
        ("Secrets", round::<Secrets>),
        ("Status", round::<Status>),
        ("TokenRequest", round::<TokenRequest>),
    ];
    let mut seen = Vec::new();
    for part in PAGE.split(".\\\" json").skip(1) {
        let (name, rest) = part.split_once('\n').unwrap();
        let name = name.rsplit(": ").next().unwrap();
        let body = rest.split_once('\n').unwrap().1.split("\n.Ed").next().unwrap();
        let (_, check) = types.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("{name}"));
        check(body);
        seen.push(name);
    }
    seen.sort_unstable();
    let mut known: Vec<_> = types.iter().map(|(name, _)| *name).collect();
    known.sort_unstable();
    assert_eq!(seen, known, "one example of each");
}

/// Every route with its methods.
pub(crate) const ROUTES: [(&[&str], &str); 18] = [
    (&["GET"], STATUS),
    (&["GET"], DOCTOR),
    (&["GET"], READY),
    (&["GET"], METRICS),
    (&["GET"], CONNECTIONS),
    (&["GET"], CLOSED),
    (&["GET"], CHANNELS),
    (&["POST"], DISCONNECT),
    (&["GET", "DELETE"], REFUSED),
    (&["POST"], PUBLISH),
    (&["GET"], EVENTS),
    (&["POST"], TOKEN),
    (&["POST"], INSPECT),
    (&["GET", "PUT"], SECRET),
    (&["POST"], SECRET_ROTATE),
    (&["POST"], RELOAD),
    (&["GET", "PUT"], LOG_LEVEL),
    (&["GET"], NODES),
];

#[test]
fn every_route_is_in_the_manual() {
    for (methods, route) in ROUTES {
        for method in methods {
            assert!(PAGE.contains(&format!("\n.It {method} {route}\n")), "{method} {route}");
        }
    }
}
