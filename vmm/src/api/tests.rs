//! The API over a real socket, in front of a microVM that only takes notes.

mod bad_input;
mod client;
mod concurrency;
mod fake;
mod random;
mod resources;
mod started;

use std::{fs, path::PathBuf, sync::Arc};

use serde_json::Value;
use tempfile::TempDir;

use self::{
    client::{Client, Reply},
    fake::{Fake, Notes},
};
use super::{ApiThread, Configuration, Controller, LONGEST_BODY, Socket};

/// The API of a fake microVM, and the files that it is configured with.
struct Setup {
    // Ended before its folder goes.
    thread: Option<ApiThread>,
    folder: TempDir,
    notes: Arc<Notes>,
}

impl Setup {
    /// Nothing is configured.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kernel"), "kernel").unwrap();
        fs::write(folder.path().join("disk"), "disk").unwrap();
        let notes = Arc::new(Notes::default());
        let launch = Box::new(Fake::new(Arc::clone(&notes)));
        let controller = Controller::new("vm-1".parse().unwrap(), Configuration::default(), launch);
        let socket = Socket::bind(&folder.path().join("api")).unwrap();
        let thread = ApiThread::start(Some(socket), controller, LONGEST_BODY).unwrap();
        Self { thread: Some(thread), folder, notes }
    }

    /// A microVM with a drive, an interface and a balloon with all its features, which has started.
    fn started() -> Self {
        let setup = Self::new();
        let mut client = setup.client();
        for (path, body) in [
            ("/drives/disk", r#"{"drive_id":"disk","is_root_device":false,"path_on_host":"DISK"}"#),
            ("/network-interfaces/eth0", r#"{"iface_id":"eth0","host_dev_name":"tap0"}"#),
            (
                "/balloon",
                r#"{"amount_mib":1,"deflate_on_oom":true,"stats_polling_interval_s":1,"free_page_hinting":true}"#,
            ),
            ("/boot-source", r#"{"kernel_image_path":"KERNEL"}"#),
            ("/actions", r#"{"action_type":"InstanceStart"}"#),
        ] {
            client.put(path, &setup.named(body)).assert_done();
        }
        setup.notes.take();
        setup
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn client(&self) -> Client {
        Client::connect(&self.path("api"))
    }

    /// `body` with the paths of this setup's files.
    fn named(&self, body: &str) -> String {
        let path = |name| self.path(name).display().to_string();
        body.replace("KERNEL", &path("kernel")).replace("DISK", &path("disk")).replace("DIR", &path(""))
    }

    fn end(&mut self) {
        self.thread = None;
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.end();
    }
}

/// The value at `pointer` of a JSON body.
#[track_caller]
fn at(reply: &Reply, pointer: &str) -> Value {
    reply.json().pointer(pointer).cloned().unwrap_or_else(|| panic!("no {pointer} in {reply:?}"))
}
