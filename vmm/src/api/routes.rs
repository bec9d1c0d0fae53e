//! Which request is served by what: a table.

use hyper::Method;
use serde::{Serialize, de::DeserializeOwned};

use super::{controller::Controller, fault::Fault};

/// One request that is served.
struct Route {
    method: Method,
    /// `{id}` stands for one name.
    path: &'static str,
    body: Body,
    serve: Serve,
}

type Serve = fn(&mut Controller, &Call<'_>) -> Result<Answer, Fault>;

/// Whether a request has a body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    None,
    Needed,
    Optional,
}

/// A request that found its route.
pub(super) struct Call<'a> {
    /// The name in its path, if the route has one.
    pub(super) id: &'a str,
    body: &'a [u8],
}

/// What a client gets.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is done.
    Done,
    /// This.
    Json(Vec<u8>),
    /// This, in the format of OpenMetrics.
    OpenMetrics(String),
}

const fn route(method: Method, path: &'static str, body: Body, serve: Serve) -> Route {
    Route { method, path, body, serve }
}

const fn get(path: &'static str, serve: Serve) -> Route {
    route(Method::GET, path, Body::None, serve)
}

const fn put(path: &'static str, serve: Serve) -> Route {
    route(Method::PUT, path, Body::Needed, serve)
}

const fn patch(path: &'static str, serve: Serve) -> Route {
    route(Method::PATCH, path, Body::Needed, serve)
}

const fn post(path: &'static str, serve: Serve) -> Route {
    route(Method::POST, path, Body::Needed, serve)
}

/// All that is served.
static ROUTES: &[Route] = &[
    get("/", |api, _| Answer::json(&api.instance_info())),
    get("/version", |_, _| Answer::json(&Controller::version())),
    get("/vm/config", |api, _| Answer::json(api.config())),
    patch("/vm", |api, call| api.change_vm(call.read()?)),
    put("/actions", |api, call| api.act(call.read()?)),
    put("/boot-source", |api, call| api.put_boot_source(call.read()?)),
    get("/machine-config", |api, _| Answer::json(&api.config().machine_config)),
    put("/machine-config", |api, call| api.put_machine_config(call.read()?)),
    patch("/machine-config", |api, call| api.patch_machine_config(call.read()?)),
    put("/drives/{id}", |api, call| api.put_drive(call.id, call.read()?)),
    patch("/drives/{id}", |api, call| api.patch_drive(call.id, &call.read()?)),
    put("/network-interfaces/{id}", |api, call| api.put_network_interface(call.id, call.read()?)),
    patch("/network-interfaces/{id}", |api, call| api.patch_network_interface(call.id, &call.read()?)),
    put("/entropy", |api, call| api.put_entropy(call.read()?)),
    get("/balloon", |api, _| Answer::json(api.balloon()?)),
    put("/balloon", |api, call| api.put_balloon(call.read()?)),
    patch("/balloon", |api, call| api.patch_balloon(call.read()?)),
    get("/balloon/statistics", |api, _| Answer::json(&api.balloon_statistics()?)),
    patch("/balloon/statistics", |api, call| api.patch_balloon_statistics(call.read()?)),
    get("/balloon/hinting/status", |api, _| Answer::json(&api.hinting_status()?)),
    route(Method::PATCH, "/balloon/hinting/start", Body::Optional, |api, call| {
        api.start_hinting(call.read_or_default()?)
    }),
    route(Method::PATCH, "/balloon/hinting/stop", Body::Optional, |api, _| api.stop_hinting()),
    put("/logger", |api, call| api.put_logger(call.read()?)),
    get("/metrics", |api, _| Ok(Answer::OpenMetrics(api.open_metrics()))),
    put("/metrics", |api, call| api.put_metrics(call.read()?)),
    get("/memory", |api, _| Answer::json(&api.memory()?)),
    put("/memory/policy", |api, call| api.put_memory_policy(&call.read()?)),
    post("/memory/discard", |api, call| Answer::json(&api.discard_memory(call.read()?)?)),
];

/// What Firecracker serves and underlay does not: how the paths begin, and what they are about.
const LACKING: &[(&str, &str)] = &[
    ("snapshot", "snapshots: a microVM is started from a kernel only"),
    ("vsock", "vsock device: connect to the guest over a network interface"),
    ("mmds", "metadata service: put what the guest needs to know on its command line or on a drive"),
    ("cpu-config", "CPU templates: the guest sees the features that KVM offers"),
    ("pmem", "pmem devices: use a drive"),
    ("serial", "settings of the serial port: the console is on stdin and stdout"),
    ("hotplug", "hotplug of memory: use the balloon"),
];

/// Serves a request.
pub(super) fn serve(api: &mut Controller, method: &Method, path: &str, body: &[u8]) -> Result<Answer, Fault> {
    let matching = || ROUTES.iter().filter_map(|route| Some((route, bind(route.path, path)?)));
    let Some((route, id)) = matching().find(|(route, _)| route.method == *method) else {
        let others = matching().map(|(route, _)| route.method.as_str()).collect();
        return Err(no_route(method, path, others));
    };
    match (route.body, body.is_empty()) {
        (Body::None, false) => Err(Fault::UnexpectedBody(method.clone())),
        (Body::Needed, true) => Err(Fault::NoBody(method.clone())),
        _ => (route.serve)(api, &Call { id, body }),
    }
}

fn no_route(method: &Method, path: &str, others: Vec<&'static str>) -> Fault {
    let first = segments(path).next().unwrap_or_default();
    match LACKING.iter().find(|(lacking, _)| *lacking == first) {
        Some(&(_, what)) if others.is_empty() => Fault::Lacking(what),
        _ => Fault::NoRoute { method: method.clone(), path: path.to_owned(), others },
    }
}

/// What `{id}` of `pattern` is in `path`: empty if there is none in it, nothing if they do not match.
fn bind<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let mut id = "";
    let (mut pattern, mut path) = (segments(pattern), segments(path));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return Some(id),
            (Some("{id}"), Some(name)) => id = name,
            (Some(expected), Some(segment)) if expected == segment => {}
            _ => return None,
        }
    }
}

/// The names between the slashes; one at the end makes no difference.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.trim_start_matches('/').split_terminator('/')
}

impl Call<'_> {
    /// The body.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        let mut json = serde_json::Deserializer::from_slice(self.body);
        let value = serde_path_to_error::deserialize(&mut json).map_err(Fault::Json)?;
        json.end().map_err(Fault::Trailing)?;
        Ok(value)
    }

    /// The body, if there is one.
    fn read_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Fault> {
        if self.body.is_empty() { Ok(T::default()) } else { self.read() }
    }
}

impl Answer {
    fn json(value: &impl Serialize) -> Result<Self, Fault> {
        let json = serde_json::to_vec(value).map_err(super::OperationError::failed)?;
        Ok(Self::Json(json))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_binds_its_id() {
        assert_eq!(bind("/drives/{id}", "/drives/rootfs"), Some("rootfs"));
        assert_eq!(bind("/drives/{id}", "/drives/rootfs/"), Some("rootfs"));
        assert_eq!(bind("/drives/{id}", "/drives"), None);
        assert_eq!(bind("/drives/{id}", "/drives/a/b"), None);
        assert_eq!(bind("/", "/"), Some(""));
        assert_eq!(bind("/", "/vm"), None);
        assert_eq!(bind("/vm/config", "/vm/config"), Some(""));
    }

    #[test]
    fn no_two_routes_are_the_same() {
        for (index, route) in ROUTES.iter().enumerate() {
            let rest = ROUTES.iter().skip(index + 1);
            assert!(rest.clone().all(|other| (&other.method, other.path) != (&route.method, route.path)));
        }
    }
}
