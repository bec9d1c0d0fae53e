//! Many clients at once, and some who take their time.

use std::thread;

use super::*;

/// As many as are let in at a time, and some more.
const CROWD: usize = 160;

#[test]
fn fifty_clients_and_a_slow_one_are_all_served() {
    let setup = Setup::started();
    let mut slow = setup.client();
    slow.send(b"GET /machine-config HTTP/1.1\r\nHo");

    thread::scope(|scope| {
        for number in 0..50 {
            let mut client = setup.client();
            scope.spawn(move || {
                for round in 0..20 {
                    if (number + round) % 2 == 0 {
                        assert_eq!(client.get("/vm/config").status, 200);
                    } else {
                        client.patch("/balloon", r#"{"amount_mib":2}"#).assert_done();
                    }
                }
            });
        }
    });

    assert_eq!(setup.notes.take(), vec!["balloon 2"; 500]);
    slow.send(b"st: localhost\r\n\r\n");
    assert_eq!(slow.reply().status, 200);
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let setup = Setup::new();
    let mut client = setup.client();
    let body = r#"{"vcpu_count":2,"mem_size_mib":64}"#;
    for byte in
        format!("PUT /machine-config HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len()).bytes()
    {
        client.send(&[byte]);
        assert_eq!(setup.client().get("/").status, 200);
    }
    client.reply().assert_done();
    assert_eq!(at(&client.get("/machine-config"), "/vcpu_count"), 2);
}

#[test]
fn several_requests_may_come_at_once() {
    let setup = Setup::new();
    let mut client = setup.client();
    client.send("GET /version HTTP/1.1\r\n\r\n".repeat(100).as_bytes());
    for _ in 0..100 {
        assert_eq!(client.reply().status, 200);
    }
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let setup = Setup::new();
    let mut deaf = setup.client();
    // More answers than a socket has room for; it is read no further then, so that this ends by waiting too.
    let requests = "GET /vm/config HTTP/1.1\r\n\r\n".repeat(8000);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = setup.client();
            for _ in 0..100 {
                assert_eq!(client.get("/").status, 200);
            }
        });
        deaf.send(&requests.as_bytes()[..64 << 10]);
    });
    assert_eq!(setup.client().get("/").status, 200);
    for _ in 0..(64 << 10) / requests.len().div_ceil(8000) {
        assert_eq!(deaf.reply().status, 200);
    }
}

#[test]
fn whoever_is_silent_makes_room_for_whoever_is_not() {
    let setup = Setup::new();
    let mut silent: Vec<_> = (0..CROWD).map(|_| setup.client()).collect();
    // One of the last is slow rather than silent.
    let last = silent.last_mut().unwrap();
    last.send(b"GET / HT");

    // The first were put out, those that came last are still in.
    assert_eq!(setup.client().get("/").status, 200);
    assert!(silent[0].is_closed());
    let last = silent.last_mut().unwrap();
    last.send(b"TP/1.1\r\n\r\n");
    assert_eq!(last.reply().status, 200);
}

#[test]
fn the_end_does_not_wait_for_clients() {
    let mut setup = Setup::new();
    let mut idle = setup.client();
    assert_eq!(idle.get("/").status, 200);
    let mut half = setup.client();
    half.send(b"GET / HT");

    setup.end();

    assert!(idle.is_closed());
    assert!(half.is_closed());
}
