//! Pipes that nobody reads: what finds no room there holds up nothing else.

use std::{
    io::{BufReader, PipeReader, Read, Write},
    process::Stdio,
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::json;
use underlay_tests::{Need, Suite, pipe_without_room, write_tiny_kernel};

use super::served::Served;

/// out %al, (%dx) to the serial port without an end: mov $'x', %al; mov $0x3f8, %dx; 1: out %al, (%dx); jmp 1b
const CHATTER: &[u8] = &[0xb0, b'x', 0x66, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xfd];

pub(crate) fn add_to(suite: &mut Suite) {
    let needs = [Need::Kvm, Need::Program("curl")];
    suite.test("full::a_guest_that_waits_for_room_ends_at_a_signal", &needs, ends);
    suite.test("full::a_guest_that_waits_for_room_is_paused_and_goes_on", &needs, pauses);
    suite.test("full::a_guest_that_waits_for_room_can_be_typed_to", &needs, typed);
    suite.test("full::a_log_without_room_holds_up_no_answer", &needs[1..], logged);
}

/// A guest that writes to a pipe without room, as soon as it has started.
fn chatter(stdin: Stdio) -> (Served, PipeReader) {
    let folder = tempfile::tempdir().unwrap();
    let kernel = folder.path().join("kernel");
    write_tiny_kernel(&kernel, CHATTER);
    let (reader, stdout) = pipe_without_room().unwrap();
    let options = ["--mem", "16M", "--kernel", kernel.to_str().unwrap()].map(str::to_owned);
    let served = Served::start_on(folder, &options, [stdin, stdout.into(), Stdio::inherit()]);
    // It does not show when a guest waits. What is done to one that does not yet has to succeed as well.
    thread::sleep(Duration::from_secs(1));
    (served, reader)
}

fn ends() {
    let (mut served, _reader) = chatter(Stdio::null());

    served.signal(Signal::SIGTERM);

    assert_eq!(served.wait().code(), Some(143));
}

fn pauses() {
    let (mut served, reader) = chatter(Stdio::null());

    served.tell("PATCH", "/vm", &json!({"state": "Paused"}));
    assert_eq!(served.get("/")["state"], "Paused");
    served.tell("PATCH", "/vm", &json!({"state": "Resumed"}));

    // Until what the guest had written when the pipe was full, and what it writes now, come through it.
    let mut chatter =
        BufReader::new(&reader).bytes().map(Result::unwrap).skip_while(|byte| *byte == 0).take(4096);
    assert!(chatter.all(|byte| byte == b'x'));
    served.signal(Signal::SIGTERM);
    assert_eq!(served.wait().code(), Some(143));
}

fn typed() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let (mut served, _console) = chatter(reader.into());

    writer.write_all(b"x").unwrap();
    thread::sleep(Duration::from_millis(200));

    assert_eq!(served.get("/")["state"], "Running");
    served.signal(Signal::SIGTERM);
    assert_eq!(served.wait().code(), Some(143));
}

fn logged() {
    let (_reader, stderr) = pipe_without_room().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut served = Served::start_on(folder, &[] as &[&str], [Stdio::null(), Stdio::null(), stderr.into()]);

    // Each is a warning.
    let (status, answer) = served.curl("PUT", "/actions", Some(&json!({"action_type": "None"})));

    assert_eq!(status, 400, "{answer}");
    served.signal(Signal::SIGTERM);
    assert_eq!(served.wait().code(), Some(143));
}
