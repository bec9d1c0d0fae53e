//! Requests that nobody means: each is done or refused, and what is refused changes nothing.

use hyper::Method;
use proptest::{prelude::*, sample::select};

use super::*;
use crate::api::routes;

const PATHS: &[&str] = &[
    "/",
    "/vm",
    "/vm/config",
    "/actions",
    "/boot-source",
    "/machine-config",
    "/drives/a",
    "/drives/",
    "/network-interfaces/a",
    "/entropy",
    "/balloon",
    "/balloon/statistics",
    "/balloon/hinting/start",
    "/balloon/hinting/status",
    "/memory",
    "/memory/policy",
    "/memory/discard",
    "/snapshot/create",
    "//",
    "",
    "/%00",
];

const BODIES: &[&str] = &[
    "",
    "{}",
    "[]",
    "null",
    "{\"a\":",
    r#"{"state":"Paused"}"#,
    r#"{"action_type":"InstanceStart"}"#,
    r#"{"vcpu_count":2,"mem_size_mib":64}"#,
    r#"{"mem_size_mib":1}"#,
    r#"{"amount_mib":64,"deflate_on_oom":true,"stats_polling_interval_s":1}"#,
    r#"{"amount_mib":64}"#,
    r#"{"iface_id":"a","host_dev_name":"t"}"#,
    r#"{"kernel_image_path":"/proc/self/exe"}"#,
    r#"{"drive_id":"a","is_root_device":true,"path_on_host":"/proc/self/exe","is_read_only":true}"#,
    r#"{"start":0,"length":4096}"#,
    r#"{"huge":"always"}"#,
];

fn methods() -> impl Strategy<Value = Method> {
    select(vec![Method::GET, Method::PUT, Method::PATCH, Method::POST, Method::DELETE])
}

proptest! {
    #[test]
    fn any_request_is_done_or_refused(
        requests in prop::collection::vec((methods(), select(PATHS), select(BODIES)), 1..40),
    ) {
        let launch = Box::new(Fake::new(Arc::default()));
        let mut api = Controller::new("vm".parse().unwrap(), Configuration::default(), launch);
        let mut before = api.config().clone();
        for (method, path, body) in requests {
            let refused = routes::serve(&mut api, &method, path, body.as_bytes()).err();
            if let Some(refused) = refused {
                prop_assert!(!refused.to_string().is_empty());
                prop_assert_eq!(api.config(), &before, "{} {} {}", method, path, body);
            }
            before = api.config().clone();
        }
    }
}
