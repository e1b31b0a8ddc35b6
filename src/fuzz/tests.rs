//! Replays the committed inputs, and changes them at random for a while. tests/fuzz/run searches further, by coverage.

#![allow(clippy::panic, reason = "a test that fails should say where")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::{TARGETS, Target};

/// How long each target runs with changed inputs; PHILOTE_FUZZ_SECONDS changes it.
const SECONDS: u64 = 1;
/// The longest input, in bytes.
const LONGEST: usize = 2_000;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }
}

/// The committed inputs of a target.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let directory = format!("{}/tests/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Changes an input: bits, bytes, blocks, and parts of other inputs.
fn change(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        let end = (at + 1 + random.below(16)).min(input.len());
        match random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.below(256) as u8,
            2 => input.insert(at, random.below(256) as u8),
            3 if at < end => drop(input.drain(at..end)),
            4 if at < end => {
                let block = input[at..end].to_vec();
                let times = 1 + random.below(20);
                input.splice(at..at, block.repeat(times));
            }
            5 => input.truncate(at),
            6 => {
                const BYTES: &[u8] = b"\0\r\n\t \"'\\{}[],:;=&%+-./*<>#0919azAZ\x7f\x80\xc3\xff";
                input.insert(at, BYTES[random.below(BYTES.len())]);
            }
            _ => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len() + 1);
                let to = (from + 1 + random.below(40)).min(other.len());
                input.splice(at..end.max(at), other[from..to].iter().copied());
            }
        }
    }
    input.truncate(LONGEST);
}

/// Runs the target, and says which input has failed.
fn try_one(name: &str, target: Target, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        let path = std::env::temp_dir().join(format!("philote-fuzz-{name}-found"));
        fs::write(&path, input).unwrap();
        eprintln!("{name}: found {}, also in {}", input.escape_ascii(), path.display());
        std::panic::resume_unwind(panic);
    }
}

fn replay(name: &str) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).unwrap();
    let inputs = corpus(name);
    assert!(inputs.len() >= 3, "{} inputs for {name}", inputs.len());
    target(b"");
    inputs.iter().for_each(|input| try_one(name, *target, input));
    let seconds = std::env::var("PHILOTE_FUZZ_SECONDS").map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).unwrap();
    let mut random = Random(u64::from_le_bytes(seed) | 1);
    let (began, mut executions) = (Instant::now(), 0_u64);
    while began.elapsed() < Duration::from_secs(seconds) {
        let mut input = inputs[random.below(inputs.len())].clone();
        change(&mut input, &inputs, &mut random);
        try_one(name, *target, &input);
        executions += 1;
    }
    println!("{name}: {} committed inputs, {executions} changed ones", inputs.len());
}

/// One test for each target.
macro_rules! replays {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            replay($name);
        })*

        #[test]
        fn every_target_is_replayed() {
            let tested = [$($name),*];
            let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, tested);
        }
    };
}

replays! {
    any_request_to_the_admin_socket_is_answered: "admin",
    any_body_or_query_for_the_api_gets_an_answer_of_json: "api",
    fault_77_any_message_of_another_node_is_decoded_or_dropped: "cluster",
    any_file_of_settings_loads_or_gets_an_error: "config",
    any_environment_loads_or_gets_an_error: "environment",
    any_query_for_events_gets_a_stream_or_an_error: "events",
    fault_73_any_header_of_a_proxy_gives_an_address: "forwarded",
    fault_32_any_frames_are_answered_by_whole_frames: "frames",
    no_image_of_a_history_is_taken_that_no_history_can_have: "image",
    fault_43_any_message_is_taken_or_gets_an_error: "message",
    fault_77_no_order_of_another_node_is_accepted_without_the_secret: "order",
    fault_77_any_message_of_presence_changes_what_it_says_or_nothing: "presence",
    any_header_of_the_proxy_protocol_is_read_or_refused: "proxy",
    any_file_of_public_keys_is_read_or_refused: "public_keys",
    fault_07_any_request_is_answered: "request",
    fault_20_no_token_is_accepted_without_the_secret: "token",
}
