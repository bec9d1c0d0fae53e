//! The socket: whose it is, and that it goes.

use std::{fs, process::Command};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use underlay_tests::{Need, Suite, underlay};

use super::served::{Served, spawn, wait_until};

pub(crate) fn add_to(suite: &mut Suite) {
    suite.test("sockets::a_signal_ends_an_api_without_a_guest", &[], ended_by_a_signal);
    suite.test("sockets::one_in_use_is_refused", &[], in_use);
    suite.test("sockets::a_dead_one_is_taken_over", &[Need::Program("curl")], dead);
    suite.test("sockets::what_is_none_is_left_alone", &[], no_socket);
    suite.test("sockets::fifty_curls_at_once", &[Need::Program("curl")], crowd);
}

fn ended_by_a_signal() {
    for (name, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let mut served = Served::start(&["--metrics-path", "/dev/null"]);

        served.signal(name);

        assert_eq!(served.wait().code(), Some(code));
        assert!(!served.socket().exists());
    }
}

fn in_use() {
    let served = Served::start(&[]);

    let second = underlay(&["run", "--api-sock", &served.path("api")]);

    assert_eq!(second.code, Some(2), "{second:?}");
    assert!(second.stderr.contains("is the socket of a process that is running"), "{second:?}");
    assert!(served.socket().exists());
}

fn dead() {
    let mut first = Served::start(&[]);
    first.signal(Signal::SIGKILL);
    first.wait();
    assert!(first.socket().exists());

    let folder = tempfile::tempdir().unwrap();
    let mut second = spawn(&first.socket(), folder.path(), &["--id", "second"]);

    // The dead one's socket is there from the start: only an answer tells them apart.
    wait_until("the second serves", || {
        let mut curl = Command::new("curl");
        let asked = curl.args(["--silent", "--unix-socket"]).arg(first.socket()).arg("http://localhost/");
        String::from_utf8(asked.output().unwrap().stdout).unwrap().contains("\"second\"")
    });
    kill(Pid::from_raw(second.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(second.wait().unwrap().code(), Some(143));
}

fn no_socket() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();

    let refused = underlay(&["run", "--api-sock", &file.display().to_string()]);

    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("is not a socket"), "{refused:?}");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

fn crowd() {
    let served = Served::start(&["--id", "crowded"]);
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| assert_eq!(served.get("/")["id"], "crowded"));
        }
    });
}
