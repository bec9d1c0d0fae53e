//! A client that says exactly what it is told to.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::Value;

/// One connection.
pub(super) struct Client(BufReader<UnixStream>);

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Client {
    #[track_caller]
    pub(super) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        // A test that hangs tells nothing.
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        Self(BufReader::new(stream))
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    #[track_caller]
    pub(super) fn request(&mut self, method: &str, path: &str, body: &str) -> Reply {
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n{body}").as_bytes());
        self.reply()
    }

    #[track_caller]
    pub(super) fn reply(&mut self) -> Reply {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.0.read_line(&mut head).unwrap() > 0, "the connection was closed after {head:?}");
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        self.0.read_exact(&mut body).unwrap();
        Reply { status, head, body: String::from_utf8(body).unwrap() }
    }

    /// Whether the server has hung up, and said nothing more.
    pub(super) fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 1]), Ok(0) | Err(_))
    }

    #[track_caller]
    pub(super) fn get(&mut self, path: &str) -> Reply {
        self.request("GET", path, "")
    }

    #[track_caller]
    pub(super) fn put(&mut self, path: &str, body: &str) -> Reply {
        self.request("PUT", path, body)
    }

    #[track_caller]
    pub(super) fn patch(&mut self, path: &str, body: &str) -> Reply {
        self.request("PATCH", path, body)
    }
}

impl Reply {
    #[track_caller]
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(super) fn assert_done(&self) {
        assert_eq!((self.status, self.body.as_str()), (204, ""), "{self:?}");
    }

    #[track_caller]
    pub(super) fn assert_json(&self, expected: &str) {
        let expected: Value = serde_json::from_str(expected).unwrap();
        assert_eq!((self.status, self.json()), (200, expected));
        assert!(self.head.contains("content-type: application/json"), "{self:?}");
    }

    /// A 400 whose message has all of `words`.
    #[track_caller]
    pub(super) fn assert_fault(&self, words: &[&str]) {
        assert_eq!(self.status, 400, "{self:?}");
        let json = self.json();
        let message = json["fault_message"].as_str().unwrap_or_else(|| panic!("{self:?}"));
        assert_eq!(json.as_object().unwrap().len(), 1, "{self:?}");
        for word in words {
            assert!(message.contains(word), "no {word:?} in {message:?}");
        }
    }
}
